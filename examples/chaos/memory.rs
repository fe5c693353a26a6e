//! What processes take of memory and descriptors, and whether it grows.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(2);

/// Samples of one process that are kept: a day of them. Then every second one goes.
const MOST: usize = 43_200;

/// What one process took at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) bytes: f64,
    pub(crate) descriptors: f64,
}

/// How one process's use went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Growth {
    pub(crate) samples: usize,
    pub(crate) most_bytes: f64,
    /// By a straight line of least squares.
    pub(crate) bytes_per_hour: f64,
    pub(crate) descriptors_per_hour: f64,
    pub(crate) most_descriptors: f64,
}

/// Samples by process id.
pub(crate) type Samples = Arc<Mutex<BTreeMap<u32, Vec<Sample>>>>;

/// Looks at these processes from now on, on a thread that ends with the process.
pub(crate) fn watch(processes: &[u32]) -> Samples {
    let samples = Samples::default();
    let (told, processes, started) = (Arc::clone(&samples), processes.to_vec(), Instant::now());
    thread::spawn(move || {
        loop {
            thread::sleep(EVERY);
            for id in &processes {
                let Some((bytes, descriptors)) = look(*id) else { continue };
                let mut samples = told.lock().unwrap_or_else(PoisonError::into_inner);
                let all = samples.entry(*id).or_default();
                all.push(Sample { at: started.elapsed(), bytes, descriptors });
                if all.len() > MOST {
                    let mut keep = false;
                    all.retain(|_| {
                        keep = !keep;
                        keep
                    });
                }
            }
        }
    });
    samples
}

/// The resident bytes and the descriptors of a process.
fn look(id: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    Some((kilobytes * 1024.0, descriptors as f64))
}

/// How the use went after the warm-up.
pub(crate) fn growth(samples: &[Sample], warm_up: Duration) -> Growth {
    let warm: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= warm_up).collect();
    let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(0.0, f64::max);
    Growth {
        samples: warm.len(),
        most_bytes: most(|sample| sample.bytes),
        bytes_per_hour: slope(&warm, |sample| sample.bytes),
        descriptors_per_hour: slope(&warm, |sample| sample.descriptors),
        most_descriptors: most(|sample| sample.descriptors),
    }
}

/// The slope of the line of least squares, for an hour.
fn slope(samples: &[&Sample], value: fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let hours = |sample: &Sample| sample.at.as_secs_f64() / 3600.0;
    let mean_x = samples.iter().map(|sample| hours(sample)).sum::<f64>() / count.max(1.0);
    let mean_y = samples.iter().map(|sample| value(sample)).sum::<f64>() / count.max(1.0);
    let over: f64 = samples.iter().map(|s| (hours(s) - mean_x) * (value(s) - mean_y)).sum();
    let under: f64 = samples.iter().map(|s| (hours(s) - mean_x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        let sample = |second: u64| Sample {
            at: Duration::from_secs(second),
            // 3600 bytes an hour, after a jump at the beginning.
            bytes: if second < 100 { 0.0 } else { 1e6 + second as f64 },
            descriptors: 40.0 + (second % 2) as f64,
        };
        let samples: Vec<_> = (0..1000).map(sample).collect();
        let growth = growth(&samples, Duration::from_secs(100));
        assert!((growth.bytes_per_hour - 3600.0).abs() < 1e-3, "{growth:?}");
        assert!(growth.descriptors_per_hour.abs() < 0.1, "{growth:?}");
        assert_eq!((growth.samples, growth.most_descriptors), (900, 41.0));
        assert_eq!(super::growth(&[], Duration::ZERO), Growth::default());
    }

    #[test]
    fn a_process_can_be_looked_at() {
        let (bytes, descriptors) = look(std::process::id()).unwrap();
        assert!(bytes > 1e6 && descriptors >= 3.0);
    }
}
