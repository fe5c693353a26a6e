//! A medium in memory for the disk store, which records every change, fails on demand, and says what a power cut at
//! any moment could have left of it. Feature `testing`.
//!
//! An application that wants to know how it fares over power cuts runs its work on
//! [`DiskStore::open_with`](crate::DiskStore::open_with) over a [`Medium`], takes the [`Recording`], and opens the
//! store again on an [`Image`] for every moment:
//!
//! ```
//! # use datamesh_core::ports::{Batch, Storage, Table};
//! # use datamesh_store::crash::{Keep, Medium, Moment};
//! # use datamesh_store::{DiskOptions, DiskStore};
//! # futures::executor::block_on(async {
//! let medium = Medium::new(64 << 20);
//! let store = DiskStore::open_with(medium.files(), medium.records(), DiskOptions::default())?;
//! store.commit(Batch::new().put(Table::Work, "key", "value")).await?;
//! medium.mark(1);
//! store.close().await?;
//!
//! let recording = medium.recording();
//! let mut replay = recording.replay();
//! let mut acknowledged = false;
//! while let Some(moment) = replay.advance() {
//!     acknowledged |= moment == Moment::Mark(1);
//!     let left = Medium::with_image(replay.image(Keep::None), 64 << 20);
//!     let store = DiskStore::open_with(left.files(), left.records(), DiskOptions::default())?;
//!     let found = store.read_record(Table::Work, "key".into()).await?;
//!     assert!(found.is_some() || !acknowledged);
//!     store.close().await?;
//! }
//! # Ok::<(), datamesh_core::Error>(())
//! # }).unwrap();
//! ```

mod adapters;
mod disk;
mod medium;
mod replay;

pub use disk::Image;
pub use medium::{Deed, Failure, Hold, Medium};
pub use replay::{Keep, Moment, Recording, Replay};
