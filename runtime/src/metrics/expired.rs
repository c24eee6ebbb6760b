//! Expired requests of one service, counted and logged by asker.

use parking_lot::Mutex;

use crate::log_throttle::LogThrottle;

/// Maximum askers that are counted by name. A name comes from a message, so any program that
/// publishes could invent more.
const ASKERS_MAX: usize = 16;
/// Maximum bytes of a name.
const NAME_BYTES_MAX: usize = 128;
/// The name of all further askers.
const OTHER: &str = "other";

/// Counts of requests that expired before they were handled.
#[derive(Debug)]
pub(crate) struct ExpiredRequests(Mutex<Vec<Asker>>);

#[derive(Debug, Default)]
struct Asker {
    name: String,
    count: u64,
    log: LogThrottle,
}

impl Default for ExpiredRequests {
    fn default() -> Self {
        let other = Asker {
            name: OTHER.into(),
            ..Asker::default()
        };
        Self(Mutex::new(vec![other]))
    }
}

impl ExpiredRequests {
    /// Counts a request of an asker. Returns `Some` if it may be logged now, with the number of
    /// requests of this asker that were not logged before it.
    pub(crate) fn count(&self, asker: &str) -> Option<u64> {
        self.update(asker, |asker| {
            asker.count += 1;
            asker.log.event()
        })
    }

    /// Adds requests that another process has counted and logged.
    pub(crate) fn add(&self, asker: &str, count: u64) {
        self.update(asker, |asker| asker.count += count);
    }

    /// Returns the askers and their counts.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let askers = self.0.lock();
        askers
            .iter()
            .map(|it| (it.name.clone(), it.count))
            .collect()
    }

    fn update<T>(&self, name: &str, update: impl FnOnce(&mut Asker) -> T) -> T {
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        let mut askers = self.0.lock();
        let index = askers.iter().position(|asker| asker.name == name);
        let index = index.unwrap_or_else(|| {
            if name.is_empty() || askers.len() > ASKERS_MAX {
                return 0;
            }
            askers.push(Asker {
                name: name.to_owned(),
                ..Asker::default()
            });
            askers.len() - 1
        });
        update(&mut askers[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asker_is_logged_once_and_invented_ones_are_counted_together() {
        let expired = ExpiredRequests::default();
        assert_eq!(expired.count("/shop/orders"), Some(0));
        assert_eq!(expired.count("/shop/orders"), None);
        assert_eq!(expired.count("/shop/stock"), Some(0));
        expired.add("/shop/stock", 4);
        for number in 0..100 {
            expired.count(&format!("/invented/{number}"));
        }
        let counts = expired.counts();
        assert_eq!(counts.len(), ASKERS_MAX + 1);
        assert_eq!(counts[0], ("other".into(), 86));
        assert_eq!(counts[1], ("/shop/orders".into(), 2));
        assert_eq!(counts[2], ("/shop/stock".into(), 5));
    }
}
