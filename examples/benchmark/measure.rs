//! Times operations, and sets them beside the ceiling.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use datamesh::runtime::NativeRuntime;
use datamesh::{Capability, Mesh, Source};
use futures::StreamExt;

use crate::ceiling::{Ceiling, Direction};
use crate::generated::Content;
use crate::nodes::{Cluster, Network};

/// Objects up to this size come back as one `Bytes`, longer ones as a stream.
const WHOLE: u64 = 1 << 20;

/// Objects beyond this size are put and got once, without a round to warm up.
const ONCE: u64 = 1 << 30;

/// The most operations in a row.
const MAX_ROUNDS: usize = 1000;

/// One line of the result.
#[derive(Debug)]
pub(crate) struct Row {
    network: Network,
    op: &'static str,
    size: u64,
    lost: usize,
    mb_per_s: f64,
    ms_p50: f64,
    ms_p99: f64,
    /// CPU seconds of the whole process for one operation.
    cpu_s: f64,
    peak_rss_mb: f64,
    ceiling_mb_per_s: f64,
}

impl Row {
    fn of_ceiling(&self) -> f64 {
        self.mb_per_s / self.ceiling_mb_per_s
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "network": self.network.name(),
            "store": self.network.store(),
            "op": self.op,
            "size": self.size,
            "lost": self.lost,
            "mb_per_s": self.mb_per_s,
            "ms_p50": self.ms_p50,
            "ms_p99": self.ms_p99,
            "cpu_s": self.cpu_s,
            "peak_rss_mb": self.peak_rss_mb,
            "ceiling_mb_per_s": self.ceiling_mb_per_s,
            "of_ceiling": self.of_ceiling(),
        })
    }

    pub(crate) fn print_table(rows: &[Self]) {
        println!(
            "{:<12} {:<7} {:<3} {:>12} {:>4} {:>8} {:>10} {:>10} {:>9} {:>8} {:>8} {:>8} {:>7}",
            "network",
            "store",
            "op",
            "bytes",
            "lost",
            "MB/s",
            "ms median",
            "ms p99",
            "CPU s",
            "CPU s/GB",
            "peak MB",
            "ceiling",
            "of it"
        );
        for row in rows {
            println!(
                "{:<12} {:<7} {:<3} {:>12} {:>4} {:>8.1} {:>10.3} {:>10.3} {:>9.5} {:>8.2} {:>8.0} {:>8.0} {:>7.3}",
                row.network.name(),
                row.network.store(),
                row.op,
                row.size,
                row.lost,
                row.mb_per_s,
                row.ms_p50,
                row.ms_p99,
                row.cpu_s,
                row.cpu_s / row.size.max(1) as f64 * 1e9,
                row.peak_rss_mb,
                row.ceiling_mb_per_s,
                row.of_ceiling(),
            );
        }
    }
}

/// What is measured over one network.
pub(crate) struct Plan {
    network: Network,
    time: Duration,
    threads: usize,
    content: Content,
    objects: BTreeMap<u64, Capability>,
    pub(crate) rows: Vec<Row>,
}

impl Plan {
    pub(crate) fn new(network: Network, time: Duration) -> Result<Self, Box<dyn Error>> {
        let threads = NativeRuntime::shared()?.parallelism();
        let content = Content::new();
        Ok(Self { network, time, threads, content, objects: BTreeMap::new(), rows: Vec::new() })
    }

    /// Puts objects of this size; the last one stays for the gets.
    pub(crate) async fn put(
        &mut self,
        cluster: &Cluster,
        size: u64,
        lost: usize,
    ) -> Result<(), Box<dyn Error>> {
        let mut watch =
            Watch::new(size, self.time, Ceiling::new(Direction::Put, size, self.threads, &self.content));
        while watch.goes_on()? {
            if let Some(old) = self.objects.remove(&size) {
                cluster.client.remove(old).await?;
            }
            let request = cluster.client.put(Source::sized_reader(self.content.reader(size), size));
            let receipt = watch.time(request.into_future()).await?;
            self.objects.insert(size, receipt.capability);
        }
        self.report(cluster, watch, "put", lost);
        Ok(())
    }

    /// Gets the last object of this size that was put.
    pub(crate) async fn get(
        &mut self,
        cluster: &Cluster,
        size: u64,
        lost: usize,
    ) -> Result<(), Box<dyn Error>> {
        let capability = self.objects.get(&size).cloned().ok_or("no object of this size was put")?;
        let direction = Direction::Get { lost };
        let mut watch =
            Watch::new(size, self.time, Ceiling::new(direction, size, self.threads, &self.content));
        while watch.goes_on()? {
            // Comparing is no part of getting, so the rounds that count check the length alone.
            let compared = watch.is_warm_up() || size > ONCE;
            let content = compared.then_some(&self.content);
            watch.time(get_all(&cluster.client, &capability, size, content)).await?;
        }
        self.report(cluster, watch, "get", lost);
        Ok(())
    }

    fn report(&mut self, cluster: &Cluster, watch: Watch, op: &'static str, lost: usize) {
        let row = watch.row(self.network, op, lost);
        let metrics = cluster.client.metrics();
        eprintln!(
            "{} {op} {} bytes, {lost} stopped: {:.1} MB/s, median {:.3} ms; so far {} hedges, {} of {} segments from parity",
            self.network.name(),
            row.size,
            row.mb_per_s,
            row.ms_p50,
            metrics.hedges,
            metrics.segments_reconstructed,
            metrics.segments_decoded,
        );
        self.rows.push(row);
    }
}

async fn get_all(
    client: &Mesh,
    capability: &Capability,
    size: u64,
    compare: Option<&Content>,
) -> Result<(), Box<dyn Error>> {
    let right = |position, bytes: &[u8]| compare.is_none_or(|content| content.is_at(position, bytes));
    let mut position = 0;
    let mut same = true;
    if size <= WHOLE {
        let bytes = client.get(capability).await?;
        same = right(0, &bytes);
        position = bytes.len() as u64;
    } else {
        let mut stream = client.get(capability).stream().await?;
        while let Some(chunk) = stream.next().await.transpose()? {
            same &= right(position, &chunk);
            position += chunk.len() as u64;
        }
    }
    if same && position == size { Ok(()) } else { Err("what came back differs from what was put".into()) }
}

/// Collects the times of one row.
struct Watch {
    size: u64,
    limit: Duration,
    warm_ups: usize,
    started: Instant,
    times: Vec<Duration>,
    cpu: Duration,
    peak: u64,
    ceiling: Ceiling,
}

impl Watch {
    fn new(size: u64, limit: Duration, ceiling: Ceiling) -> Self {
        let warm_ups = match size {
            0..=WHOLE => 20,
            _ if size <= ONCE => 1,
            _ => 0,
        };
        let (times, cpu) = (Vec::new(), Duration::ZERO);
        Self { size, limit, warm_ups, started: Instant::now(), times, cpu, peak: 0, ceiling }
    }

    fn is_warm_up(&self) -> bool {
        self.warm_ups > 0
    }

    /// Whether there is another round; before it the ceiling is looked at again from time to time, so that what
    /// else the machine does weighs on both alike.
    fn goes_on(&mut self) -> Result<bool, datamesh::Error> {
        self.ceiling.sample()?;
        let least = if self.size > ONCE { 1 } else { 3 };
        let enough = self.times.len() >= least && self.started.elapsed() >= self.limit;
        Ok(!enough && self.times.len() < MAX_ROUNDS)
    }

    async fn time<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        // The ceiling's buffers are no part of the peak: it is looked at between two rounds.
        reset_peak_memory();
        let (cpu, started) = (cpu_time(), Instant::now());
        let result = work.await?;
        self.peak = self.peak.max(peak_memory().unwrap_or(0));
        if self.warm_ups > 0 {
            self.warm_ups -= 1;
            self.started = Instant::now();
        } else {
            self.times.push(started.elapsed());
            self.cpu += cpu_time().saturating_sub(cpu);
        }
        Ok(result)
    }

    fn row(mut self, network: Network, op: &'static str, lost: usize) -> Row {
        self.times.sort_unstable();
        let count = self.times.len();
        let at = |share: f64| {
            let index = ((count as f64 * share) as usize).min(count.saturating_sub(1));
            self.times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let total: Duration = self.times.iter().sum();
        Row {
            network,
            op,
            size: self.size,
            lost,
            mb_per_s: self.size as f64 * count as f64 / total.as_secs_f64() / 1e6,
            ms_p50: at(0.5),
            ms_p99: at(0.99),
            cpu_s: self.cpu.as_secs_f64() / count as f64,
            peak_rss_mb: self.peak as f64 / 1e6,
            ceiling_mb_per_s: self.ceiling.mean() / 1e6,
        }
    }
}

/// CPU time of this process so far, all threads.
pub(crate) fn cpu_time() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

/// Lets the peak begin anew, where the system can; else it is that of the whole run.
fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory that was resident, in bytes.
fn peak_memory() -> Option<u64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// The memory that programs can still have, in bytes.
pub(crate) fn available_memory() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
