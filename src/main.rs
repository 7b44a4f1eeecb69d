//! The `mirrorgate` program: see [`mirrorgate::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mirrorgate::cli::run(std::env::args_os())
}
