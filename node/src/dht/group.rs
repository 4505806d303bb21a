// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: which IP addresses are likely one person's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A /24 of IPv4 or a /48 of IPv6: as much as one person easily gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first six bytes.
    V6([u8; 6]),
}

impl Group {
    /// The group of an address. On a private Network those of a local network and of one machine have none: everybody
    /// there is a member, and all of them may have the same.
    pub fn of(address: IpAddr, private: bool) -> Option<Self> {
        match address {
            IpAddr::V4(ip) => Self::v4(ip, private),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => Self::v4(ip, private),
                None => Self::v6(ip, private),
            },
        }
    }

    fn v4(ip: Ipv4Addr, private: bool) -> Option<Self> {
        let local = ip.is_loopback() || ip.is_private() || ip.is_link_local();
        let [a, b, c, _] = ip.octets();
        (!(private && local)).then_some(Self::V4([a, b, c]))
    }

    fn v6(ip: Ipv6Addr, private: bool) -> Option<Self> {
        let local = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
        let [a, b, c, d, e, f, ..] = ip.octets();
        (!(private && local)).then_some(Self::V6([a, b, c, d, e, f]))
    }

    /// As bytes for a file.
    pub fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::V4(bytes) => bytes.to_vec(),
            Self::V6(bytes) => bytes.to_vec(),
        }
    }

    /// What [`Self::to_bytes`] made; nothing of other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            3 => bytes.try_into().ok().map(Self::V4),
            6 => bytes.try_into().ok().map(Self::V6),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_group_and_a_local_network_none() {
        let of = |text: &str, private| Group::of(text.parse().unwrap(), private);
        assert_eq!(of("192.0.2.1", false), of("192.0.2.200", true));
        assert_ne!(of("192.0.2.1", false), of("192.0.3.1", false));
        assert_eq!(of("2001:db8:1:2::1", false), of("2001:db8:1:ffff::1", false));
        assert_ne!(of("2001:db8:1::1", false), of("2001:db8:2::1", false));
        assert_eq!(of("::ffff:192.0.2.1", false), of("192.0.2.9", false), "the same in another dress");
        for local in ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.1.1", "::1", "fd00::1", "fe80::1"] {
            assert_eq!(of(local, true), None, "{local}");
            assert!(of(local, false).is_some(), "{local}");
        }
        for group in [of("192.0.2.1", false), of("2001:db8:1::1", false)].into_iter().flatten() {
            assert_eq!(Group::from_bytes(&group.to_bytes()), Some(group));
        }
        assert_eq!(Group::from_bytes(&[1, 2]), None);
    }
}
