//! Tunnels: programs that give this machine a public https address for a while. One that is
//! installed is started beside the service, asked for its address, and ended with it.
//!
//! Nothing is installed or configured here, and no tunnel is taken over that somebody else runs.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{self, Duration};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// How long a tunnel may take for its address.
const START_TIME: Duration = Duration::from_secs(30);

/// How often it is asked.
const PACE: Duration = Duration::from_millis(100);

/// How long a tunnel that is told to end may take.
const END_TIME: Duration = Duration::from_secs(2);

/// The command of this program that runs another for as long as its standard input is open.
pub const HOLD: &str = "hold";

/// What a tunnel's program gets of the environment: nothing that is a secret of the gateway's.
const PASSED_ON: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "TERM",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMDATA",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
];
/// The beginnings of the names of their own settings.
const OF_TUNNELS: [&str; 3] = ["TUNNEL_", "NGROK_", "TS_"];

/// The programs that are known, the best for a first try first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// <https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/>
    Cloudflared,
    /// <https://ngrok.com/docs>
    Ngrok,
    /// <https://tailscale.com/kb/1223/funnel>
    Tailscale,
}

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 3] = [Provider::Cloudflared, Provider::Ngrok, Provider::Tailscale];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cloudflared => "cloudflared",
            Provider::Ngrok => "ngrok",
            Provider::Tailscale => "tailscale",
        }
    }

    /// What it does not carry.
    pub fn limits(self) -> Option<&'static str> {
        match self {
            Provider::Cloudflared => Some(
                "cloudflared's quick tunnels carry no event streams and 200 requests at once: the tools work, `stream` under /v1 does not; its address changes with each start",
            ),
            Provider::Ngrok => {
                Some("ngrok shows browsers a warning page first, on its free plan; Dify passes")
            }
            Provider::Tailscale => None,
        }
    }

    /// How to get it.
    fn install(self) -> &'static str {
        match self {
            Provider::Cloudflared => {
                "cloudflared, which needs no account: https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/downloads/"
            }
            Provider::Ngrok => "ngrok, with a free account: https://ngrok.com/download",
            Provider::Tailscale => {
                "tailscale, with an account that has Funnel: https://tailscale.com/download"
            }
        }
    }

    /// The program in PATH.
    fn find(self) -> Option<PathBuf> {
        let file = format!("{}{}", self.name(), std::env::consts::EXE_SUFFIX);
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|path| path.is_file())
    }

    fn arguments(self, target: SocketAddr, metrics: SocketAddr) -> Vec<String> {
        let words: &[&str] = match self {
            Provider::Cloudflared => {
                &["tunnel", "--no-autoupdate", "--metrics", "METRICS", "--url", "http://TARGET"]
            }
            Provider::Ngrok => &["http", "TARGET", "--log", "stdout", "--log-format", "json"],
            Provider::Tailscale => &["funnel", "http://TARGET"],
        };
        let fill = |word: &&str| {
            word.replace("METRICS", &metrics.to_string()).replace("TARGET", &target.to_string())
        };
        words.iter().map(fill).collect()
    }

    /// The address in a line that the program writes.
    fn address_in(self, line: &str) -> Option<String> {
        let url = match self {
            Provider::Cloudflared => {
                line.split_whitespace().find(|word| word.starts_with("https://"))?.to_string()
            }
            Provider::Ngrok => {
                let entry: Value = serde_json::from_str(line).ok()?;
                let started = entry["msg"] == "started tunnel";
                entry["url"].as_str().filter(|_| started)?.to_string()
            }
            Provider::Tailscale => {
                line.split_whitespace().find(|word| word.starts_with("https://"))?.to_string()
            }
        };
        // Other addresses in what they write lead to manuals and logins.
        let host = Url::parse(&url).ok().filter(|url| url.scheme() == "https")?.host_str()?.to_string();
        let own = match self {
            Provider::Cloudflared => host.ends_with(".trycloudflare.com") && host != "api.trycloudflare.com",
            Provider::Ngrok => true,
            Provider::Tailscale => host.ends_with(".ts.net"),
        };
        own.then(|| url.trim_end_matches('/').to_string())
    }
}

/// Why there is no tunnel.
#[derive(Debug)]
pub enum Failure {
    /// None of the programs is installed, or not the one that was asked for.
    Missing(Option<Provider>),
    /// It does not start, ends, or tells no address: its last words.
    Failed(Provider, String),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Missing(_) => 2,
            Failure::Failed(..) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Missing(Some(provider)) => {
                write!(
                    f,
                    "error: {} is not installed\n  hint: install {}",
                    provider.name(),
                    provider.install()
                )
            }
            Failure::Missing(None) => {
                write!(f, "error: no tunnel program is installed\n  hint: install one of these")?;
                Provider::ALL.iter().try_for_each(|provider| write!(f, "\n    {}", provider.install()))
            }
            Failure::Failed(provider, why) => write!(
                f,
                "error: {} gives no public address: {why}\n  hint: run `{0}` by itself and see what it asks for, such as a login",
                provider.name()
            ),
        }
    }
}

/// A running tunnel. It ends when this is dropped.
pub struct Tunnel {
    /// Who runs it.
    pub provider: Provider,
    /// Its public base URL, without a trailing slash.
    pub url: String,
    child: Child,
    /// Open as long as the tunnel is to run: also a process that is killed closes it.
    held: Option<ChildStdin>,
}

impl Tunnel {
    /// Starts a tunnel to `target`: with the program that was asked for, else the first that is
    /// installed.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn start(asked: Option<Provider>, target: SocketAddr) -> Result<Self, Failure> {
        let installed = |provider: Provider| provider.find().map(|path| (provider, path));
        let found = match asked {
            Some(provider) => installed(provider),
            None => Provider::ALL.into_iter().find_map(installed),
        };
        let (provider, path) = found.ok_or(Failure::Missing(asked))?;
        let failed = |why: String| Failure::Failed(provider, why);
        let metrics = free_port().map_err(|error| failed(error.to_string()))?;
        let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(own);
        command
            .arg(HOLD)
            .arg(path)
            .args(provider.arguments(target, metrics))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_passed_on)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C is for the service, whose running answers still need the tunnel.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| failed(format!("it does not start: {error}")))?;
        let (sender, lines) = mpsc::channel();
        listen(child.stdout.take(), sender.clone());
        listen(child.stderr.take(), sender);
        let held = child.stdin.take();
        let mut tunnel = Tunnel { provider, url: String::new(), child, held };
        tunnel.url = tunnel.address(&lines, metrics).await.map_err(failed)?;
        Ok(tunnel)
    }

    /// Waits for the address.
    async fn address(&mut self, lines: &Receiver<String>, metrics: SocketAddr) -> Result<String, String> {
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < START_TIME {
            let ended = self.child.try_wait().ok().flatten();
            while let Ok(line) = lines.try_recv() {
                if let Some(url) = self.provider.address_in(&line) {
                    return Ok(url);
                }
                if !line.trim().is_empty() {
                    last = line;
                }
            }
            if let Some(status) = ended {
                // Its last words may still be on their way.
                while let Ok(line) = lines.recv_timeout(PACE * 3) {
                    last = if line.trim().is_empty() { last } else { line };
                }
                return Err(format!("it ended ({status}): {}", last.trim()));
            }
            if self.provider == Provider::Cloudflared
                && let Some(host) = timeout(PACE * 10, quick_tunnel(metrics)).await.ok().flatten()
            {
                return Ok(format!("https://{host}"));
            }
            sleep(PACE).await;
        }
        Err(format!("it tells none within {} seconds: {}", START_TIME.as_secs(), last.trim()))
    }

    /// Watches the tunnel, and says when it ends before the service does. It never returns.
    pub async fn watch(&mut self) {
        while let Ok(None) = self.child.try_wait() {
            sleep(Duration::from_secs(1)).await;
        }
        log::error!("the tunnel has ended, and its public address with it: start the service again");
        std::future::pending().await
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.held = None;
        let end = time::Instant::now() + END_TIME;
        while let Ok(None) = self.child.try_wait()
            && time::Instant::now() < end
        {
            std::thread::sleep(PACE / 10);
        }
        // Either may fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_passed_on(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    PASSED_ON.contains(&name.as_str()) || OF_TUNNELS.iter().any(|prefix| name.starts_with(prefix))
}

/// Runs a program until it ends, or standard input does: so it ends with the process that holds the other
/// end, however that ends.
pub fn hold<'a>(mut command: impl Iterator<Item = &'a OsString>) -> ExitCode {
    let Some(program) = command.next() else { return ExitCode::from(2) };
    let mut child = match Command::new(program).args(command).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("it does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        told.store(true, Ordering::Relaxed);
    });
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            Ok(None) if !over.load(Ordering::Relaxed) => std::thread::sleep(PACE / 2),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return ExitCode::SUCCESS;
            }
        }
    }
}

/// Reads what the program writes, line by line, to its end: a full pipe would stop it.
fn listen(pipe: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            // Nobody listens any more once the address is known.
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The host name of cloudflared's quick tunnel, by its metrics server.
async fn quick_tunnel(metrics: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(metrics).await.ok()?;
    let request = format!("GET /quicktunnel HTTP/1.0\r\nHost: {metrics}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let body: Value = serde_json::from_str(body.trim()).ok()?;
    body["hostname"].as_str().filter(|host| !host.is_empty()).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_told_from_other_links() {
        use Provider::{Cloudflared, Ngrok, Tailscale};
        for (provider, line, expected) in [
            (
                Cloudflared,
                "2026-11-01T00:00:00Z INF |  https://a-b.trycloudflare.com   |",
                Some("https://a-b.trycloudflare.com"),
            ),
            (Cloudflared, "INF see https://developers.cloudflare.com/x", None),
            (Cloudflared, "ERR Post https://api.trycloudflare.com failed", None),
            (
                Ngrok,
                r#"{"lvl":"info","msg":"started tunnel","url":"https://a.ngrok-free.app"}"#,
                Some("https://a.ngrok-free.app"),
            ),
            (Ngrok, r#"{"lvl":"info","msg":"client session established","url":"https://x"}"#, None),
            (Tailscale, "https://me.tail1.ts.net/", Some("https://me.tail1.ts.net")),
            (Tailscale, "To enable, visit: https://login.tailscale.com/f/funnel?node=x", None),
        ] {
            assert_eq!(provider.address_in(line).as_deref(), expected, "{line}");
        }
    }
}
