//! How many wrong keys have come lately, from each address and in all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys that an address may send in a window, and all addresses together.
const OF_AN_ADDRESS: u32 = 10;
const IN_ALL: u32 = 1_000;

/// How long a wrong key counts.
const WINDOW: Duration = Duration::from_secs(60);

/// How many addresses are remembered; while there are more, the others count as one.
const ADDRESSES: usize = 10_000;

/// The wrong keys of the last minute.
#[derive(Default)]
pub struct Guesses(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    of: HashMap<IpAddr, Count>,
    in_all: Option<Count>,
}

/// The wrong keys since a time.
#[derive(Clone, Copy)]
struct Count {
    since: Instant,
    wrong: u32,
}

impl Guesses {
    /// How long this address must wait until one more key of it is looked at, if it must.
    pub fn wait(&self, address: Option<IpAddr>) -> Option<Duration> {
        self.lock().wait(address, Instant::now())
    }

    /// Counts wrong keys from an address.
    pub fn add(&self, address: Option<IpAddr>, wrong: usize) {
        self.lock().add(address, wrong, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn wait(&mut self, address: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let place = self.place(address, now);
        let of_it = self.of.get(&place).and_then(|count| count.wait(OF_AN_ADDRESS, now));
        let of_all = self.in_all.and_then(|count| count.wait(IN_ALL, now));
        of_it.max(of_all)
    }

    fn add(&mut self, address: Option<IpAddr>, wrong: usize, now: Instant) {
        let place = self.place(address, now);
        let none = Count { since: now, wrong: 0 };
        self.of.entry(place).or_insert(none).add(wrong, now);
        self.in_all.get_or_insert(none).add(wrong, now);
    }

    /// Under what an address is counted. Whoever has one of IPv6 has at least the 2^64 of its network.
    fn place(&mut self, address: Option<IpAddr>, now: Instant) -> IpAddr {
        let unknown = Ipv6Addr::UNSPECIFIED.into();
        let place = match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
            }
            Some(address) => address,
            None => unknown,
        };
        if self.of.len() >= ADDRESSES && !self.of.contains_key(&place) {
            self.of.retain(|_, count| count.is_fresh(now));
            if self.of.len() >= ADDRESSES {
                return unknown;
            }
        }
        place
    }
}

impl Count {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < WINDOW
    }

    fn wait(&self, most: u32, now: Instant) -> Option<Duration> {
        (self.is_fresh(now) && self.wrong >= most)
            .then(|| WINDOW.saturating_sub(now.duration_since(self.since)))
    }

    fn add(&mut self, wrong: usize, now: Instant) {
        if !self.is_fresh(now) {
            *self = Count { since: now, wrong: 0 };
        }
        self.wrong = self.wrong.saturating_add(u32::try_from(wrong).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_waits_after_ten_until_its_minute_is_over() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.add(address("203.0.113.7"), 9, now);
        assert_eq!(seen.wait(address("203.0.113.7"), now), None);
        seen.add(address("::ffff:203.0.113.7"), 1, now);
        assert_eq!(seen.wait(address("203.0.113.7"), now), Some(WINDOW));
        assert_eq!(seen.wait(address("203.0.113.8"), now), None);
        assert_eq!(seen.wait(address("203.0.113.7"), now + WINDOW), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for host in 0..10 {
            seen.add(address(&format!("2001:db8:1:2::{host}")), 1, now);
        }
        assert!(seen.wait(address("2001:db8:1:2:ffff::1"), now).is_some());
        assert_eq!(seen.wait(address("2001:db8:1:3::1"), now), None);
    }

    #[test]
    fn all_together_are_bounded_in_number_and_in_memory() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for host in 0..2 * ADDRESSES as u32 {
            seen.add(Some(std::net::Ipv4Addr::from_bits(host).into()), 1, now);
        }
        assert!(seen.of.len() <= ADDRESSES + 1);
        assert!(seen.wait(address("203.0.113.7"), now).is_some());
    }
}
