//! A run in which one call of the medium fails: a typed error, no acknowledgement, no further writes, and nothing
//! acknowledged is lost.

use datamesh_core::ErrorKind;
use datamesh_core::ports::{Batch, Storage};
use datamesh_store::crash::{Deed, Failure, Keep, Medium};
use futures::executor::block_on;

use super::check::{Expected, Verdict, check};
use super::script::{Step, Teller};
use super::{MEDIUM_BYTES, open};

/// Errors that say what happened; `Closed` and `NotFound`, say, would not.
fn is_typed(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, Io | StorageFull | Corrupt | Poisoned)
}

/// How a run met the failure of one call.
pub(crate) struct Met {
    pub(crate) deed: Option<Deed>,
    /// Whether an operation told its caller.
    pub(crate) was_told: bool,
}

/// Runs the script with one failing call, and then looks at what the power leaves.
pub(crate) fn fail_at(script: &[Step], call: u64, failure: Failure) -> Verdict<Met> {
    let medium = Medium::new(MEDIUM_BYTES);
    medium.fail_call(call, failure);
    let mut teller = match Teller::new(&medium) {
        Ok(teller) => teller,
        // A store that could not be made is made at the second try.
        Err(error) if is_typed(error.kind()) => {
            let store = open(&medium).map_err(|error| format!("not opened again: {error:?}"))?;
            block_on(store.close()).map_err(|error| format!("{error:?}"))?;
            return Ok(Met { deed: medium.failed(), was_told: true });
        }
        Err(error) => return Err(format!("opening: {error:?}")),
    };
    let (mut was_told, mut before) = (false, None);
    for step in script {
        let (failed, acknowledged) = (medium.failed().filter(|_| before.is_none()), teller.acknowledged);
        let outcome = block_on(teller.step(step));
        // Once a change failed nothing more is acknowledged until the store is opened again.
        if failed.is_some_and(ends_writing) && teller.acknowledged > acknowledged {
            return Err(format!("{step:?} was acknowledged after {failed:?} had failed"));
        }
        if *step == Step::Reopen {
            // A failure of another life of the store.
            before = medium.failed();
        }
        let Err(error) = outcome else { continue };
        if !is_typed(error.kind()) || medium.failed().is_none() {
            return Err(format!("{step:?}: {error:?}"));
        }
        was_told = true;
        match step {
            Step::Read(_) => continue,
            Step::Reopen => {}
            _ => check_poisoned(&teller)?,
        }
        break;
    }
    let closed = block_on(teller.store.close());
    was_told |= closed.is_err();
    if let Err(error) = closed
        && error.kind() != ErrorKind::Io
    {
        return Err(format!("closing: {error:?}"));
    }
    // What was not met until here is not to be met later.
    let deed = medium.failed();
    medium.fail_call(u64::MAX, failure);
    look_again(&medium, &teller)?;
    Ok(Met { deed, was_told })
}

/// A file that could not be removed is only space, and goes at the next open.
pub(crate) fn ends_writing(deed: Deed) -> bool {
    deed.changes() && deed != Deed::Remove
}

fn check_poisoned(teller: &Teller) -> Verdict<()> {
    block_on(async {
        let kinds = [
            teller.store.commit(Batch::new()).await.map_err(|error| error.kind()),
            teller.store.compact().await.map_err(|error| error.kind()),
        ];
        match kinds.iter().all(|kind| *kind == Err(ErrorKind::Poisoned)) {
            true => Ok(()),
            false => Err(format!("not poisoned: {kinds:?}")),
        }
    })
}

/// Opens the store as a process would that goes on, and as one would after a power cut.
fn look_again(medium: &Medium, teller: &Teller) -> Verdict<()> {
    let last = teller.world.states.len() - 1;
    let expected = Expected { commits: teller.acknowledged..=last, probe: Some(false) };
    for medium in [medium.after_power_cut(Keep::None), medium.clone()] {
        let store = open(&medium).map_err(|error| format!("not opened: {error:?}"))?;
        block_on(check(&store, &teller.world, &expected))?;
        block_on(store.close()).map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}
