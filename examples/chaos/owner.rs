//! Who has opened a connection: read from `/proc`, because all of it comes from the loopback address.

use std::fs;
use std::net::SocketAddr;

/// A protocol with a table of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// The first of these processes that has the socket whose own end is this address.
pub(crate) fn find(protocol: Protocol, address: SocketAddr, processes: &[(usize, u32)]) -> Option<usize> {
    let table = match protocol {
        Protocol::Tcp => "/proc/net/tcp",
        Protocol::Udp => "/proc/net/udp",
    };
    let table = fs::read_to_string(table).ok()?;
    let inodes: Vec<&str> = table.lines().filter_map(|line| inode_of(line, address.port())).collect();
    let has = |id: u32| {
        let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        links.into_iter().any(|link| {
            let inode = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.contains(&inode))
        })
    };
    processes.iter().find(|(_, id)| has(*id)).map(|(number, _)| *number)
}

/// The inode of a row whose own port is this one, and which is no listening TCP socket.
fn inode_of(line: &str, port: u16) -> Option<&str> {
    let mut words = line.split_whitespace().skip(1);
    let (own, _) = (words.next()?, words.next()?);
    let state = words.next()?;
    let own_port = u16::from_str_radix(own.rsplit_once(':')?.1, 16).ok()?;
    let inode = words.nth(5)?;
    (own_port == port && state != "0A" && inode != "0").then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_owns_its_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = stream.local_addr().unwrap();
        let me = [(3, 1), (7, std::process::id())];
        assert_eq!(find(Protocol::Tcp, own, &me), Some(7));
        assert_eq!(find(Protocol::Tcp, own, &me[..1]), None);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(find(Protocol::Udp, socket.local_addr().unwrap(), &me), Some(7));
    }
}
