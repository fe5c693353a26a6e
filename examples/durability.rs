//! How likely it is that an object is lost, by the model of `datamesh::placement::durability`.
//!
//! `cargo run --example durability -- --nodes 9 --data 4 --parity 2 --hostile 3 --zones east=3,west=3,south=3`; without
//! a code it prints a table of the presets and of some others.
#![allow(clippy::print_stdout, reason = "a command that prints what it found")]

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use datamesh::placement::{DurabilityModel, MAX_NINES, durability};
use datamesh::{Redundancy, Zone};

/// Prints how likely it is that an object is lost, and what that assumes.
#[derive(Debug, Parser)]
#[command(name = "durability")]
struct Options {
    /// How many nodes hold data.
    #[arg(long, default_value_t = 100)]
    nodes: u64,
    /// k: the data shards; without it a table is printed.
    #[arg(long, requires = "parity")]
    data: Option<u8>,
    /// m: the parity shards.
    #[arg(long, requires = "data")]
    parity: Option<u8>,
    /// A preset instead: standard, wide, byzantine(9), or a code like 4+2.
    #[arg(long, conflicts_with = "data")]
    redundancy: Option<Redundancy>,
    /// The share of the nodes that fail within a year.
    #[arg(long, default_value_t = 0.25)]
    afr: f64,
    /// From a loss to the rebuilt shard, in hours.
    #[arg(long, default_value_t = 24.0)]
    repair_hours: f64,
    /// How many nodes withhold what they hold.
    #[arg(long, default_value_t = 0)]
    hostile: u64,
    /// Zones and how many nodes each has, as name=number with commas between.
    #[arg(long, value_delimiter = ',', value_parser = zone)]
    zones: Vec<(Zone, u64)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let asked = match (options.data, options.parity) {
        (Some(data), Some(parity)) => Some(Redundancy::new(data, parity)?),
        _ => options.redundancy,
    };
    match asked {
        Some(redundancy) => print!("{}", durability(&model(&options, redundancy)?)?),
        None => table(&options)?,
    }
    Ok(())
}

fn model(options: &Options, redundancy: Redundancy) -> Result<DurabilityModel, Box<dyn Error>> {
    let repair = Duration::try_from_secs_f64(options.repair_hours * 3600.0)?;
    Ok(DurabilityModel::new(redundancy, options.nodes)
        .with_annual_failure_rate(options.afr)
        .with_repair(repair)
        .with_hostile(options.hostile)
        .with_zones(options.zones.clone()))
}

/// Nines for each code and case of failure, and the chance that hostile nodes make an object unreadable.
fn table(options: &Options) -> Result<(), Box<dyn Error>> {
    const CASES: [(f64, u64); 5] = [(0.0138, 24), (0.0138, 156), (0.25, 6), (0.25, 24), (0.25, 720)];
    const CODES: [&str; 7] = ["1+2", "standard", "6+3", "wide", "17+3", "8+8", "29+51"];
    print!("{:<7}", "nines");
    CASES.iter().for_each(|(rate, hours)| print!("{:>15}", format!("{:.2} %, {hours} h", rate * 100.0)));
    println!("{:>12}", format!("{} hostile", options.hostile));
    for code in CODES {
        let redundancy: Redundancy = code.parse()?;
        print!("{:<7}", redundancy.to_string());
        for (rate, hours) in CASES {
            let repair = Duration::from_secs(hours * 3600);
            let model = model(options, redundancy)?.with_annual_failure_rate(rate).with_repair(repair);
            let nines = durability(&model)?.nines_capped;
            let nines =
                if nines < MAX_NINES { format!("{nines:.1}") } else { format!("{MAX_NINES} or more") };
            print!("{nines:>15}");
        }
        let unreadable = durability(&model(options, redundancy)?)?.p_byzantine;
        println!("{:>12}", format!("{:.2} %", unreadable * 100.0));
    }
    println!(
        "\n{} nodes, of which as many fail in a year and are repaired in as long as the columns say.",
        options.nodes
    );
    Ok(())
}

fn zone(text: &str) -> Result<(Zone, u64), String> {
    let (name, nodes) = text.split_once('=').ok_or("a zone is written like east=3")?;
    let zone = name.parse().map_err(|error: datamesh::Error| error.to_string())?;
    Ok((zone, nodes.parse().map_err(|_| format!("{nodes:?} is no number of nodes"))?))
}
