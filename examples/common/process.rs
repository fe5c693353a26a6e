//! A node in a process of its own, which is told lines on its standard input, and tells how it is by lines on its
//! standard output.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long a node may take to open.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node that was told to end may take to close its mesh; then its process ends all the same.
const FAREWELL: Duration = Duration::from_secs(20);

/// How long the one that started it waits for that.
const END_LIMIT: Duration = FAREWELL.saturating_add(Duration::from_secs(5));

/// How often it looks whether that is so.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the allocator of glibc is told, unless the environment says otherwise: all threads share one arena, and blocks of
/// 64 KiB go back to the system when they are free. Else each thread keeps what it once needed, and a process of many
/// threads grows for hours. Other allocators do not look at it.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// A process; it is killed when the value goes, however that comes about.
pub(crate) struct Process<R> {
    child: Child,
    /// The process ends when this is closed, also where nobody is left to kill it.
    input: Option<ChildStdin>,
    report: Arc<Mutex<R>>,
}

impl<R: Default + Clone + Send + 'static> Process<R> {
    /// Starts this program again with these arguments, tells it one line, and waits until it has reported once.
    ///
    /// The line is a ticket, or empty: everybody could read it among the arguments.
    pub(crate) fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        line: &str,
        read: fn(&str) -> Option<R>,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(ALLOCATOR.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()));
        // Ctrl-C on a terminal is for this program, which then ends its processes one by one.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let report = Arc::new(Mutex::new(R::default()));
        let Some(output) = output else {
            return Err("a process without pipes".into());
        };
        let mut process = Self { child, input, report: Arc::clone(&report) };
        process.tell(line)?;
        let (opened, open) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if let Some(told) = read(&line) {
                    *report.lock().unwrap_or_else(PoisonError::into_inner) = told;
                    // Only the first is waited for.
                    let _ = opened.send(());
                }
            }
        });
        open.recv_timeout(PATIENCE).map_err(|_| format!("process {} did not open a node", process.id()))?;
        Ok(process)
    }

    /// What it told last.
    pub(crate) fn report(&self) -> R {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().ok_or("a process without an input")?;
        Ok(writeln!(input, "{line}")?)
    }
}

impl<R> Process<R> {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it end by itself: closes its input, and waits. One that takes too long is killed, which is an error, as
    /// it is one when it fails.
    fn end(mut self) -> Result<()> {
        self.input = None;
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if began.elapsed() > END_LIMIT => {
                    self.kill()?;
                    return Err(format!("process {} did not end in time", self.id()).into());
                }
                None => thread::sleep(LOOK_AGAIN),
            }
        };
        if status.success() { Ok(()) } else { Err(format!("process {}: {status}", self.id()).into()) }
    }

    /// Kills it with the signal that no process can refuse, and says its id.
    pub(crate) fn kill(&mut self) -> Result<u32> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.child.id())
    }
}

impl<R> Drop for Process<R> {
    fn drop(&mut self) {
        // One that has ended already is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the nodes with these numbers end by themselves, all at the same time. Says which of them did not, and why.
pub(crate) fn end_all<R: Send + 'static>(nodes: Vec<(usize, Process<R>)>) -> Vec<String> {
    let end = |process: Process<R>| thread::spawn(move || process.end().map_err(|error| error.to_string()));
    let ends: Vec<_> = nodes.into_iter().map(|(number, process)| (number, end(process))).collect();
    let failed = ends.into_iter().filter_map(|(number, end)| {
        let ended = end.join().unwrap_or_else(|_| Err("the wait ended by a panic".to_owned()));
        Some(format!("node {}: {}", number + 1, ended.err()?))
    });
    failed.collect()
}

/// For the process that was started: the lines that it is told. When there are no more it is to end, in a time that is
/// bounded here, also where the one that started it is gone.
pub(crate) fn lines() -> Result<mpsc::Receiver<String>> {
    // Its input tells that, too, but not to a process that is stopped.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let (sender, receiver) = mpsc::sync_channel(4);
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(std::result::Result::ok) {
            // Who does not listen any more ends all the same.
            let _ = sender.send(line);
        }
        // Whoever listens hears of the end.
        drop(sender);
        thread::sleep(FAREWELL);
        eprintln!("process {} was told to end {} s ago and ends now", std::process::id(), FAREWELL.as_secs());
        std::process::exit(1);
    });
    Ok(receiver)
}
