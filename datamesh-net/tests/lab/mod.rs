//! Network namespaces for one test, and processes in them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a helper that fails fails its test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a process may take to say what is waited for.
const PATIENCE: Duration = Duration::from_secs(100);

/// Namespaces, which are removed with everything in them when this is dropped.
pub(crate) struct Lab {
    names: Vec<String>,
}

/// Says something that is seen though the test passes: what is printed is not.
pub(crate) fn say(what: &str) {
    let mut seen = std::io::stderr().lock();
    writeln!(seen, "{what}").unwrap();
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Lab {
    /// Makes namespaces; says why and gives none where that cannot be.
    pub(crate) fn new(names: &[&str]) -> Option<Self> {
        let mut lab = Self { names: Vec::new() };
        for name in names {
            let full = lab.full(name);
            if let Err(why) = run(&format!("ip netns add {full}")) {
                say(&format!("skipped: no network namespaces can be made here: {why}"));
                return None;
            }
            lab.names.push(full.clone());
            must(&format!("ip -n {full} link set lo up"));
        }
        Some(lab)
    }

    fn full(&self, name: &str) -> String {
        format!("dm{}-{name}", std::process::id() % 100_000)
    }

    pub(crate) fn has_nft(&self) -> bool {
        run("nft --version").is_ok()
    }

    /// Makes a namespace a network that others are plugged into, with an address of its own.
    pub(crate) fn network(&self, name: &str, address: &str) {
        let name = self.full(name);
        must(&format!("ip -n {name} link add net type bridge"));
        must(&format!("ip -n {name} addr add {address} dev net"));
        must(&format!("ip -n {name} link set net up"));
    }

    /// Connects a namespace to a network; the interface is `wan`.
    pub(crate) fn plug(&self, name: &str, network: &str, address: &str) {
        let (port, name, network) = (format!("to-{name}"), self.full(name), self.full(network));
        must(&format!("ip -n {name} link add wan type veth peer name {port} netns {network}"));
        must(&format!("ip -n {network} link set {port} master net"));
        must(&format!("ip -n {network} link set {port} up"));
        must(&format!("ip -n {name} addr add {address} dev wan"));
        must(&format!("ip -n {name} link set wan up"));
    }

    /// Connects two namespaces; the interfaces are `lan`.
    pub(crate) fn join(&self, one: &str, address: &str, other: &str, others_address: &str) {
        let (one, other) = (self.full(one), self.full(other));
        must(&format!("ip -n {one} link add lan type veth peer name lan netns {other}"));
        for (name, address) in [(&one, address), (&other, others_address)] {
            must(&format!("ip -n {name} addr add {address} dev lan"));
            must(&format!("ip -n {name} link set lan up"));
            must(&format!("ip -n {name} route add 224.0.0.0/4 dev lan"));
        }
    }

    /// Makes a namespace a router as people have it at home: what is behind it has its address, and nothing comes in
    /// that was not asked for.
    pub(crate) fn nat(&self, gate: &str, home: &str, inside: &str) {
        let (gate, home) = (self.full(gate), self.full(home));
        must(&format!("ip -n {home} route add default via {inside}"));
        must(&format!("ip netns exec {gate} sysctl -qw net.ipv4.ip_forward=1"));
        let rules = "table ip home {
            chain out { type nat hook postrouting priority 100; oifname wan masquerade; }
            chain through { type filter hook forward priority 0; policy drop;
                iifname lan accept; ct state established,related accept; }
            chain to { type filter hook input priority 0; policy accept;
                iifname wan ct state established,related accept; iifname wan drop; }
        }";
        let command =
            Command::new("ip").args(["netns", "exec", &gate, "nft", "-f", "-"]).stdin(Stdio::piped()).spawn();
        let mut command = command.unwrap();
        command.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(command.wait().unwrap().success(), "nft refuses the rules");
    }

    /// Starts a test of this binary in a namespace.
    pub(crate) fn start(&self, name: &str, test: &str, settings: &[(&str, &str)]) -> Process {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.full(name)])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Process::new(child.unwrap())
    }
}

fn must(command: &str) {
    run(command).unwrap_or_else(|why| panic!("{command}: {why}"));
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(why) = run(&format!("ip netns del {name}")) {
                say(&format!("a namespace stays: {why}"));
            }
        }
    }
}

/// A process in a namespace; it ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                println!("    {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line that begins so, and gives the rest of it.
    pub(crate) fn wait_for(&mut self, begin: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("waited for {begin:?} after {:?}", self.said));
            self.said.push(line);
            if let Some(rest) = self.said.last().and_then(|line| line.split_once(begin)) {
                return rest.1.to_owned();
            }
        }
    }

    /// What it has said already.
    pub(crate) fn wait_said(&mut self, begin: &str) -> String {
        let said = self.said.iter().find_map(|line| line.split_once(begin)).map(|rest| rest.1.to_owned());
        said.unwrap_or_else(|| self.wait_for(begin))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How an address at a relay ends that leads to the node with this name.
pub(crate) fn peer_suffix(node: &str) -> String {
    let node = node.parse().unwrap();
    datamesh_net::libp2p::address_of(&node).unwrap().to_string()
}
