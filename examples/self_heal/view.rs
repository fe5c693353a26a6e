//! What the person who runs it sees: bars in a terminal, lines elsewhere.

use std::io::{IsTerminal, stderr, stdout};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Result;
use crate::swarm::{Moved, Swarm};
use crate::watch::Histogram;

/// How often a line is printed at least where nothing changes.
const EVERY: Duration = Duration::from_secs(5);

/// Bars that are drawn again and again.
struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    margins: Vec<ProgressBar>,
    tail: ProgressBar,
}

impl Bars {
    fn new(parity: usize, files: usize, target: ProgressDrawTarget) -> Result<Self> {
        let all = MultiProgress::with_draw_target(target);
        let text = ProgressStyle::with_template("{msg}")?;
        let bar = ProgressStyle::with_template("  {msg:<10} {bar:50} {pos:>5}")?;
        let line = |style: &ProgressStyle| all.add(ProgressBar::new(files as u64).with_style(style.clone()));
        let head = line(&text);
        let margins = (0..parity + 2).map(|_| line(&bar)).collect();
        let tail = line(&text);
        Ok(Self { all, head, margins, tail })
    }
}

/// See the module.
pub(crate) struct View {
    started: Instant,
    bars: Option<Bars>,
    /// Where plain lines go: standard output is for the summary where that is JSON.
    to_stderr: bool,
    last: Option<(Instant, String)>,
}

impl View {
    pub(crate) fn new(parity: usize, files: usize, to_stderr: bool) -> Result<Self> {
        let is_terminal = if to_stderr { stderr().is_terminal() } else { stdout().is_terminal() };
        let target = if to_stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        let bars = if is_terminal { Some(Bars::new(parity, files, target)?) } else { None };
        Ok(Self { started: Instant::now(), bars, to_stderr, last: None })
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("{:>6.1} s  {text}", self.started.elapsed().as_secs_f64());
        match &self.bars {
            // A terminal that is gone has no reader.
            Some(bars) => drop(bars.all.println(line)),
            None if self.to_stderr => eprintln!("{line}"),
            None => println!("{line}"),
        }
    }

    /// Shows how it is now.
    pub(crate) fn show(&mut self, doing: &str, histogram: &Histogram, swarm: &Swarm) {
        let up: Vec<String> = swarm.reports().map(|(number, _)| (number + 1).to_string()).collect();
        let Moved { read, rebuilt, moved } = swarm.moved();
        let set_aside: u64 = swarm.reports().map(|(_, report)| report.set_aside).sum();
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let work = format!(
            "up: {}; {:.1} MB rebuilt from {:.1} MB, {:.1} MB moved home, {set_aside} shards set aside",
            up.join(" "),
            megabytes(rebuilt),
            megabytes(read),
            megabytes(moved),
        );
        if let Some(bars) = &self.bars {
            bars.head.set_message(format!("{:>6.1} s  {doing}", self.started.elapsed().as_secs_f64()));
            for (bar, (name, count)) in bars.margins.iter().zip(histogram.lines()) {
                bar.set_message(name);
                bar.set_position(count as u64);
            }
            bars.tail.set_message(format!("  {work}"));
            return;
        }
        let text = format!("{}  ({work})", histogram.text());
        let is_new = self.last.as_ref().is_none_or(|(at, last)| *last != text || at.elapsed() > EVERY);
        if is_new {
            self.say(&text);
            self.last = Some((Instant::now(), text));
        }
    }

    /// Takes the bars away.
    pub(crate) fn end(&self) {
        if let Some(bars) = &self.bars {
            // As above.
            let _ = bars.all.clear();
        }
    }
}
