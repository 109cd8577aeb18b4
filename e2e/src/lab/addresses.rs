//! The addresses of the lab. All are inside one range, which the host routes to the lab as a whole.

use std::net::Ipv4Addr;

/// Everything in the lab, as the host routes it.
pub const RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 213, 0, 0), 16);

/// The API server, in the namespace of the control plane.
pub const API_SERVER: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);

/// CoreDNS, in the same namespace: an address of its own, so that a node can lose one without the other.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

/// The host's end of its link to the lab: where test programs and people come from.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 255, 2);

/// The lab's end of that link.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 255, 1);

/// The ClusterIPs.
pub const SERVICES: &str = "10.213.32.0/20";

/// The API server's own ClusterIP: the first of `SERVICES`.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 213, 32, 1);

/// The address of the node with this number (from 1).
pub fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 213, 0, 10 + number)
}

/// The pods of the node with this number.
pub fn pods(number: u8) -> String {
    format!("10.213.{}.0/24", 16 + number)
}

/// The lab's range as programs write it.
pub fn range() -> String {
    format!("{}/{}", RANGE.0, RANGE.1)
}
