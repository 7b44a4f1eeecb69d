//! The program as a process of its own: for signals, exit codes and all that it writes.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::helpers::temporary_folder;

/// A running service.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the service with these settings and waits until it listens.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let folder = temporary_folder();
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
        command.env_clear().env("PORT", "0").env("DATA_DIR", &folder).current_dir(&folder);
        command.envs(settings.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = Arc::new(Mutex::new(String::new()));
        let mut standard = BufReader::new(child.stdout.take().expect("its output"));
        let mut first = String::new();
        standard.read_line(&mut first).expect("its first line");
        collect(standard, &output);
        collect(child.stderr.take().expect("its log"), &output);
        let address = first.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| {
            std::thread::sleep(Duration::from_millis(300));
            panic!("no address in {first:?}: {}", output.lock().expect("a good lock"))
        });
        Process { address, child, output }
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end without holding up this thread: how it ended, and how long that took.
    pub async fn ended(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return (status, start.elapsed());
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end: {}", self.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All that it has written so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("a good lock").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count) = from.read(&mut chunk) {
            if count == 0 {
                return;
            }
            into.lock().expect("a good lock").push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
}
