//! What is printed: lines for people, JSON for programs.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::{Result, failure};

/// Prints a line. Nobody may be there any more to read it, which does not stop a node.
macro_rules! say {
    ($($line:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($line)*);
    }};
}
pub(crate) use say;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// A result of one value.
    pub(crate) fn line(self, name: &str, value: &str) {
        if self.json { say!("{}", json!({ name: value })) } else { say!("{value}") }
    }

    /// A result that must not get lost in silence, because nobody can read the object without it.
    pub(crate) fn capability(self, text: &str, value: &Value) -> Result<()> {
        let mut out = io::stdout();
        if self.json {
            writeln!(out, "{value}")?
        } else {
            writeln!(out, "{text}")?
        }
        Ok(())
    }

    /// A result as JSON, or as lines.
    pub(crate) fn result(self, value: &Value, lines: impl FnOnce()) {
        if self.json { say!("{value}") } else { lines() }
    }

    /// What stands beside the result, for a person, if one is there.
    pub(crate) fn remark(self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// An error and its causes.
    pub(crate) fn failed(self, error: &(dyn Error + 'static)) {
        if self.json {
            let value = json!({ "error": error.to_string(), "causes": failure::causes(error) });
            let _ = writeln!(io::stderr(), "{value}");
        } else {
            failure::tell(error);
        }
    }
}

/// A bar on the standard error; nothing is drawn where that is no terminal.
pub(crate) fn progress_bar(len: u64) -> ProgressBar {
    let bar = ProgressBar::new(len);
    match ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

pub(crate) fn speed(bytes: u64, took: Duration) -> String {
    let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
    format!("{megabytes:.1} MB in {seconds:.2} s, {:.0} MB/s", megabytes / seconds.max(1e-9))
}
