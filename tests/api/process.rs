//! The program as a process of its own, for what only a process shows: what it prints, how it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::helpers::temporary_folder;

/// A running `mirrorgate`.
pub struct Process {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    /// Starts it with these arguments and variables alone, in a folder of its own.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = temporary_folder();
        std::fs::create_dir_all(&folder).expect("a folder");
        Process::start_in(&folder, arguments, variables)
    }

    /// The same in this folder.
    pub fn start_in(folder: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirrorgate"));
        command.args(arguments).env_clear().env("DATA_DIR", folder).current_dir(Path::new(folder));
        for (name, value) in variables {
            command.env(name, value);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let output = BufReader::new(child.stdout.take().expect("an output"));
        Process { child, output }
    }

    /// Its lines up to one that begins like this, that one as well.
    pub fn lines_until(&mut self, beginning: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).expect("a line");
            assert!(count > 0, "it ended before `{beginning}`: {lines:#?}");
            lines.push(line.trim_end().to_string());
            if line.trim_start().starts_with(beginning) {
                return lines;
            }
        }
    }

    /// Tells it to stop, and waits for its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not stop");
    }
}

impl Process {
    /// Kills it, so that it can put nothing in order.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
