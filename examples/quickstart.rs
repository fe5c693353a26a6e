//! Six nodes in one process put a file, lose two of their number, meet a damaged disk, and give the file back.
//!
//!     cargo run --release --example quickstart [FILE]
//!
//! Every node has its own identity, its own store on disk and its own port on the loopback interface. Without FILE,
//! 48 MiB of this program's own executable are stored.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

#[path = "common/failure.rs"]
mod failure;

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use datamesh::{Capability, Event, Events, Explanation, Mesh, NodeId, Progress, Ticket};
use futures::executor::block_on;
use futures::{FutureExt, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// How many nodes: as many as 4+2 has shards, so that each holds one of every stripe.
const NODES: usize = 6;

/// How much of its own executable the program stores when it is given no file, in bytes.
const OWN_LEN: u64 = 48 << 20;

/// Objects up to this length have no shards that could be damaged, in bytes.
const INLINE_LEN: u64 = 16 << 10;

/// How long the nodes may take to find each other.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match block_on(run(std::env::args_os().nth(1).map(PathBuf::from))) {
        Ok(len) => {
            println!("ok: {len} bytes read back with 2 of {NODES} nodes down, and with a corrupt shard");
            ExitCode::SUCCESS
        }
        Err(error) => {
            failure::tell(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn run(file: Option<PathBuf>) -> Result<u64> {
    // Removed with everything in it when this function ends.
    let directory = tempfile::Builder::new().prefix("datamesh-quickstart-").tempdir()?;
    let file = match file {
        Some(file) => file,
        None => own_executable(directory.path())?,
    };
    let len = fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    if len <= INLINE_LEN {
        return Err(format!(
            "{len} bytes are kept whole in a manifest; give a file of over {INLINE_LEN} bytes"
        )
        .into());
    }

    println!("1. Six nodes open under {} (removed at the end)", directory.path().display());
    let mut mesh = SixNodes::open(directory.path()).await?;
    mesh.print();

    println!("\n2. Node 1 puts {}", file.display());
    let capability = mesh.put(&file).await?;
    let explanation = mesh.node(0)?.explain(&capability).await?;
    mesh.print_holders(&explanation);

    let holders = mesh.data_holders(&explanation);
    let [first, second, damaged] = holders.as_slice() else { return Err("too few holders of data".into()) };
    println!("\n3. Nodes {} and {} stop; node 1 gets the file from the other four", first + 1, second + 1);
    mesh.stop(*first).await?;
    mesh.stop(*second).await?;
    let len = mesh.get_and_compare(0, &capability, &file).await?;

    println!(
        "\n4. Nodes {} and {} start again, and a byte on node {}'s disk changes",
        first + 1,
        second + 1,
        damaged + 1
    );
    mesh.start(*first).await?;
    mesh.start(*second).await?;
    mesh.wait_for_all().await?;
    let place = flip_a_byte(&mesh.directory(*damaged))?;
    println!("   {place}");
    mesh.get_until_noticed(*first, *damaged, &capability, &file).await?;

    mesh.stop_all().await?;
    println!();
    Ok(len)
}

/// A node that runs, or the place of one that was stopped.
struct Slot {
    id: NodeId,
    mesh: Option<Mesh>,
}

/// The six nodes, and where they keep their data.
struct SixNodes {
    root: PathBuf,
    ticket: Ticket,
    slots: Vec<Slot>,
}

impl SixNodes {
    async fn open(root: &Path) -> Result<Self> {
        let first = open_node(&root.join("node-1"), None).await?;
        let ticket = first.ticket()?;
        let slots = vec![Slot { id: first.node_id(), mesh: Some(first) }];
        let mut nodes = Self { root: root.to_path_buf(), ticket, slots };
        for number in 1..NODES {
            let mesh = open_node(&nodes.directory(number), Some(nodes.ticket.clone())).await?;
            nodes.slots.push(Slot { id: mesh.node_id(), mesh: Some(mesh) });
        }
        nodes.wait_for_all().await?;
        Ok(nodes)
    }

    fn directory(&self, number: usize) -> PathBuf {
        self.root.join(format!("node-{}", number + 1))
    }

    fn node(&self, number: usize) -> Result<&Mesh> {
        let mesh = self.slots.get(number).and_then(|slot| slot.mesh.as_ref());
        Ok(mesh.ok_or_else(|| format!("node {} does not run", number + 1))?)
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Mesh)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.mesh.as_ref()?)))
    }

    fn number_of(&self, id: NodeId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == id)
    }

    /// How people call a node: by its number here.
    fn name_of(&self, id: NodeId) -> String {
        self.number_of(id).map_or_else(|| id.fmt_short(), |number| format!("node {}", number + 1))
    }

    async fn wait_for_all(&self) -> Result<()> {
        for (_, mesh) in self.running() {
            mesh.wait_for_nodes(NODES, PATIENCE).await?;
        }
        Ok(())
    }

    async fn stop(&mut self, number: usize) -> Result<()> {
        if let Some(mesh) = self.slots.get_mut(number).and_then(|slot| slot.mesh.take()) {
            mesh.shutdown().await?;
        }
        Ok(())
    }

    async fn stop_all(&mut self) -> Result<()> {
        for number in 0..NODES {
            self.stop(number).await?;
        }
        Ok(())
    }

    /// Starts a node that was stopped, on what it left.
    async fn start(&mut self, number: usize) -> Result<()> {
        let mesh = open_node(&self.directory(number), Some(self.ticket.clone())).await?;
        if let Some(slot) = self.slots.get_mut(number) {
            slot.mesh = Some(mesh);
        }
        Ok(())
    }

    async fn put(&self, file: &Path) -> Result<Capability> {
        let len = fs::metadata(file)?.len();
        let bar = progress_bar("   put", len);
        let began = Instant::now();
        let told = bar.clone();
        let put = self.node(0)?.put(file).progress(move |Progress { done, .. }| told.set_position(done));
        let receipt = put.await?;
        bar.finish_and_clear();
        println!("   put  {}", speed(receipt.len, began.elapsed()));
        println!(
            "   {} shards of each segment on {} nodes, all synced to disk",
            receipt.redundancy,
            receipt.holders.len()
        );
        Ok(receipt.capability)
    }

    /// Gets the object through one node, and compares every byte with the file.
    async fn get_and_compare(&self, number: usize, capability: &Capability, file: &Path) -> Result<u64> {
        let mut expected = BufReader::new(File::open(file)?);
        let bar = progress_bar("   get", expected.get_ref().metadata()?.len());
        let began = Instant::now();
        let mut stream = self.node(number)?.get(capability).stream().await?;
        let (mut done, mut wanted) = (0, Vec::new());
        while let Some(chunk) = stream.next().await.transpose()? {
            wanted.resize(chunk.len(), 0);
            expected.read_exact(&mut wanted)?;
            if *chunk != *wanted {
                return Err(format!("the bytes from {done} on differ from the file").into());
            }
            done += chunk.len() as u64;
            bar.set_position(done);
        }
        if expected.read(&mut [0])? != 0 {
            return Err(format!("only {done} bytes came back").into());
        }
        bar.finish_and_clear();
        println!("   get  {}, every byte as in the file", speed(done, began.elapsed()));
        Ok(done)
    }

    /// Gets the object until somebody met the damaged shard: through `reader`, which was just started and asks the
    /// holders of data shards first, or else through the damaged node itself, which asks its own store first.
    async fn get_until_noticed(
        &self,
        reader: usize,
        damaged: usize,
        capability: &Capability,
        file: &Path,
    ) -> Result<()> {
        let mut listeners: Vec<(NodeId, Events)> =
            self.running().map(|(_, mesh)| (mesh.node_id(), mesh.events())).collect();
        for reader in [reader, damaged] {
            println!("   node {} gets the file", reader + 1);
            self.get_and_compare(reader, capability, file).await?;
            // Whoever meets a wrong shard tells it before the right one is there.
            let noticed: Vec<String> = listeners
                .iter_mut()
                .flat_map(|(id, events)| {
                    drain(events).into_iter().map(|event| (*id, event)).collect::<Vec<_>>()
                })
                .filter_map(|(id, event)| self.verdict(id, &event))
                .collect();
            noticed.iter().for_each(|line| println!("   {line}"));
            if !noticed.is_empty() {
                return Ok(());
            }
        }
        Err("nobody noticed the changed byte".into())
    }

    /// What an event says of a wrong shard, in words.
    fn verdict(&self, teller: NodeId, event: &Event) -> Option<String> {
        let teller = self.name_of(teller);
        match event {
            Event::CorruptShard(shard) => Some(format!(
                "{teller}'s shard {} was wrong: {teller} saw it on reading, and refused to serve it",
                shard.fmt_short()
            )),
            Event::WrongShard { node, shard, .. } => Some(format!(
                "{}'s shard {} was wrong: {teller} saw it on arrival",
                self.name_of(*node),
                shard.fmt_short()
            )),
            _ => None,
        }
    }

    fn print(&self) {
        for (number, mesh) in self.running() {
            let address = mesh.addresses().first().map(ToString::to_string).unwrap_or_default();
            println!("   node {}  {}…  {address}", number + 1, mesh.node_id().fmt_short());
        }
    }

    /// Three nodes, other than the first, that hold a data shard of the first extent.
    fn data_holders(&self, explanation: &Explanation) -> Vec<usize> {
        let data = explanation.health.redundancy.data();
        let places =
            explanation.shards.iter().filter(|place| place.extent == 0 && usize::from(place.index) < data);
        let holders = places.flat_map(|place| &place.holders).filter_map(|id| self.number_of(*id));
        holders.filter(|number| *number != 0).take(3).collect()
    }

    fn print_holders(&self, explanation: &Explanation) {
        let health = &explanation.health;
        let data = health.redundancy.data();
        for (number, slot) in self.slots.iter().enumerate() {
            let mut held: Vec<String> = Vec::new();
            let places = explanation.shards.iter().filter(|place| place.extent == 0);
            for place in places.filter(|place| place.holders.contains(&slot.id)) {
                let index = usize::from(place.index);
                held.push(match index.checked_sub(data) {
                    Some(parity) => format!("parity {parity}"),
                    None => format!("data {index}"),
                });
            }
            if health.manifest_holders.contains(&slot.id) {
                held.push("the manifest".to_owned());
            }
            println!("   node {} holds {}", number + 1, held.join(", "));
        }
        if let Some(more) = health.extents.len().checked_sub(1).filter(|more| *more > 0) {
            println!("   and {more} more extents in orders of their own");
        }
        match health.margin {
            Some(margin) => println!("   margin {margin}: any {margin} of these nodes may be lost"),
            None => println!("   no margin: the object cannot be read now"),
        }
    }
}

async fn open_node(directory: &Path, ticket: Option<Ticket>) -> Result<Mesh> {
    let builder = datamesh::builder().path(directory).listen("/ip4/127.0.0.1/tcp/0");
    let builder = match ticket {
        Some(ticket) => builder.join(ticket),
        None => builder,
    };
    Ok(builder.open().await?)
}

/// All events that wait.
fn drain(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}

/// Writes a file of this program's executable, again and again.
fn own_executable(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("input");
    let executable = fs::read(std::env::current_exe()?)?;
    let mut file = File::create(&path)?;
    let mut left = usize::try_from(OWN_LEN)?;
    while left > 0 && !executable.is_empty() {
        let piece = executable.get(..left).unwrap_or(&executable);
        file.write_all(piece)?;
        left -= piece.len();
    }
    Ok(path)
}

/// Changes one byte in the middle of the first shard of a store's first volume, beneath the store that has it open, as
/// a failing disk would; docs/store-format.md says what lies where.
fn flip_a_byte(store: &Path) -> Result<String> {
    let mut volumes: Vec<PathBuf> = fs::read_dir(store.join("volumes"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    volumes.sort();
    let path = volumes.first().ok_or("the store has no volume")?;
    let mut volume = OpenOptions::new().read(true).write(true).open(path)?;
    let mut head = [0; 8];
    volume.seek(SeekFrom::Start(64))?;
    volume.read_exact(&mut head)?;
    let [b'D', b'M', b'S', b'H', length @ ..] = head else { return Err("the volume has no entry".into()) };
    let offset = 64 + 56 + u64::from(u32::from_le_bytes(length)) / 2;
    let mut byte = [0];
    volume.seek(SeekFrom::Start(offset))?;
    volume.read_exact(&mut byte)?;
    let changed = byte.map(|byte| byte ^ 0x01);
    volume.seek(SeekFrom::Start(offset))?;
    volume.write_all(&changed)?;
    volume.sync_all()?;
    Ok(format!("byte {offset} of {} was {:#04x} and is {:#04x}", path.display(), byte[0], changed[0]))
}

fn progress_bar(name: &'static str, len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix}  {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::new(len).with_prefix(name);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn speed(bytes: u64, took: Duration) -> String {
    let (megabytes, seconds) = (bytes as f64 / 1e6, took.as_secs_f64());
    format!("{megabytes:.1} MB in {seconds:.2} s, {:.0} MB/s", megabytes / seconds.max(1e-9))
}
