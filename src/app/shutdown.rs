//! How the service stops: what runs may finish, within `SHUTDOWN_TIMEOUT_SECONDS`.
//!
//! A worker of actix ends with its last connection, and an answer that goes on without its caller
//! has none. So the workers are stopped only when nothing runs any more.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use socket2::SockRef;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::gateway::Shared;
use crate::http::draining::Draining;
use crate::telemetry;

/// Left of the time when what still runs is told to end, so that it can say so to its caller.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often it is looked whether anything still runs.
const LOOK: Duration = Duration::from_millis(20);

/// What is needed to stop.
pub struct Shutdown {
    /// How long it may take.
    pub time: Duration,
    /// The server.
    pub server: ServerHandle,
    /// Its listening socket once more.
    pub listener: Option<TcpListener>,
    /// Says to all that the service stops.
    pub draining: Data<Draining>,
    /// What is being answered.
    pub shared: Arc<Shared>,
}

impl Shutdown {
    /// Waits for the first signal and stops the server then; `overdue` is told when the time is
    /// over. A second signal ends the process at once.
    pub async fn on_signal(self, mut signals: StopSignals, overdue: oneshot::Sender<()>) {
        let signal = signals.next().await;
        log::info!(signal; "stopping: running answers have {} seconds to finish", self.time.as_secs_f64());
        self.draining.begin();
        tokio::task::spawn_local(async move {
            // A terminal that closes says so beside what it was told to end.
            while signals.next().await == "SIGHUP" {}
            telemetry::flush();
            std::process::exit(130);
        });
        let (time, shared) = (self.time, Arc::clone(&self.shared));
        tokio::task::spawn_local(async move {
            let last = last_words(time);
            sleep(time - last).await;
            shared.end_answers();
            sleep(last).await;
            let _ = overdue.send(());
        });
        self.server.pause().await;
        // Pausing leaves new callers in the socket's queue: better they are refused at once and go
        // elsewhere. Where the system cannot do that, they wait for the end.
        if let Some(listener) = &self.listener {
            let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
        while self.shared.has_long_answers() || self.shared.metrics().requests_in_flight.get() > 0 {
            sleep(LOOK).await;
        }
        self.server.stop(true).await;
    }
}

fn last_words(time: Duration) -> Duration {
    LAST_WORDS.min(time / 2)
}

/// The signals that stop the service: Ctrl-C, SIGTERM as platforms send it, and SIGHUP when its terminal
/// closes, unless it was started to outlive that. They are caught from when this is made, before anyone can
/// take the service for running.
pub struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

impl StopSignals {
    /// Catches them.
    ///
    /// # Errors
    /// When the system does not let them be caught.
    pub fn catch() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: if outlives_terminal() { None } else { Some(signal(SignalKind::hangup())?) },
            })
        }
        #[cfg(not(unix))]
        Ok(StopSignals {})
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        {
            let hangup = async {
                match &mut self.hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = hangup => "SIGHUP",
            }
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
            "Ctrl-C"
        }
    }
}

/// Whether the process was started with SIGHUP ignored, as `nohup` does. Where that cannot be known, it was
/// not.
#[cfg(unix)]
fn outlives_terminal() -> bool {
    const SIGHUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & SIGHUP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_have_a_second_or_half_of_the_time() {
        assert_eq!(last_words(Duration::from_secs(30)), Duration::from_secs(1));
        assert_eq!(last_words(Duration::from_millis(500)), Duration::from_millis(250));
    }
}
