//! Whether anybody asks. While nobody does, the store is not asked either: a database that is suspended
//! when nobody uses it, as free ones are, can sleep. Who asks after such a time waits until what other
//! replicas may have changed meanwhile is read again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long nobody has asked when the store is left alone.
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// How long one waits for what is read again. Then what was known before holds.
const REFRESH_TIME: Duration = Duration::from_secs(5);

/// When somebody asked, and who follows the store.
pub struct Activity {
    idle_after: Duration,
    state: Mutex<State>,
    woken: watch::Sender<()>,
    refreshed: Notify,
}

struct State {
    last: Instant,
    followers: usize,
    /// Of these, those who have not read again since somebody asked.
    pending: usize,
}

impl Default for Activity {
    fn default() -> Self {
        Activity::idle_after(IDLE_AFTER)
    }
}

impl Activity {
    fn idle_after(idle_after: Duration) -> Self {
        let state = State { last: Instant::now(), followers: 0, pending: 0 };
        Activity {
            idle_after,
            state: Mutex::new(state),
            woken: watch::Sender::new(()),
            refreshed: Notify::new(),
        }
    }

    /// Whether nobody has asked for long.
    pub fn is_idle(&self) -> bool {
        self.state().last.elapsed() >= self.idle_after
    }

    /// Notes that somebody asks; after an idle time it waits until the store was read again.
    pub async fn note(&self) {
        if !self.begin() {
            return;
        }
        let all_read = async {
            loop {
                let refreshed = self.refreshed.notified();
                if self.state().pending == 0 {
                    return;
                }
                refreshed.await;
            }
        };
        if timeout(REFRESH_TIME, all_read).await.is_err() {
            log::warn!("what the store holds was not read again in time: what was known before holds");
            self.state().pending = 0;
        }
    }

    /// Whether something is still to be read again.
    fn begin(&self) -> bool {
        let mut state = self.state();
        if state.last.elapsed() >= self.idle_after {
            state.pending = state.followers;
            self.woken.send_replace(());
        }
        state.last = Instant::now();
        state.pending > 0
    }

    /// Waits while nobody asks.
    pub async fn in_use(&self) {
        let mut woken = self.woken.subscribe();
        if self.is_idle() {
            let _ = woken.changed().await;
        }
    }

    /// Someone who reads again what others may have changed.
    pub fn follower(self: &Arc<Self>) -> Follower {
        self.state().followers += 1;
        Follower { activity: Arc::clone(self), woken: self.woken.subscribe(), is_awaited: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Someone who reads from the store again and again, while somebody asks.
pub struct Follower {
    activity: Arc<Activity>,
    woken: watch::Receiver<()>,
    is_awaited: bool,
}

impl Follower {
    /// Waits until it is time to read again: for this long, and while nobody asks until somebody does.
    pub async fn due(&mut self, pause: Duration) {
        tokio::select! {
            woken = self.woken.changed() => self.is_awaited = woken.is_ok(),
            () = sleep(pause) => {
                if self.activity.is_idle() {
                    self.is_awaited = self.woken.changed().await.is_ok();
                }
            }
        }
    }

    /// Tells whoever waits for it that it has read, or cannot.
    pub fn done(&mut self) {
        if std::mem::take(&mut self.is_awaited) {
            let mut state = self.activity.state();
            state.pending = state.pending.saturating_sub(1);
            if state.pending == 0 {
                self.activity.refreshed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(5);
    const IDLE: Duration = Duration::from_millis(100);

    /// Follows for ever, and counts.
    fn follow(activity: &Arc<Activity>) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let (mut follower, counted) = (activity.follower(), Arc::clone(&count));
        tokio::spawn(async move {
            loop {
                follower.due(PAUSE).await;
                counted.fetch_add(1, Ordering::Relaxed);
                follower.done();
            }
        });
        count
    }

    #[tokio::test]
    async fn while_nobody_asks_nothing_is_read_and_the_next_who_asks_finds_it_read() {
        let activity = Arc::new(Activity::idle_after(IDLE));
        let counts = [follow(&activity), follow(&activity)];
        let read = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        sleep(IDLE / 2).await;
        assert!(read().iter().all(|count| *count > 1), "while somebody asks it is read");
        sleep(IDLE * 2).await;
        let before = read();
        assert!(timeout(IDLE, activity.in_use()).await.is_err());
        assert_eq!(read(), before);
        activity.note().await;
        assert!(read().iter().zip(before).all(|(now, before)| *now > before), "it was not read again");
    }

    #[tokio::test]
    async fn all_who_ask_after_an_idle_time_wait_for_the_same_reading() {
        let activity = Arc::new(Activity::idle_after(IDLE));
        let mut follower = activity.follower();
        sleep(IDLE).await;
        let asking = futures_util::future::join(activity.note(), activity.note());
        tokio::pin!(asking);
        assert!(timeout(IDLE / 2, &mut asking).await.is_err(), "nothing was read yet");
        follower.due(Duration::ZERO).await;
        follower.done();
        timeout(IDLE, asking).await.expect("it was read");
    }
}
