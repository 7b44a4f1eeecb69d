//! `backup` and `restore`: the SQLite store as one file, without other tools.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::output::say;
use super::{described, fail};
use crate::config::{self, Config, Location};
use crate::store::snapshot::{self, Draft, Snapshots};
use crate::store::{NoLock, ServiceLock};
use crate::telemetry;
use crate::vault::Vault;

/// Stands for standard output or input.
const STANDARD: &str = "-";

/// Why a command did not do its work: the exit code, and what a person reads.
type Failure = (u8, String);

pub fn backup_command() -> Command {
    let file = "Where to write it; `-` is standard output, for a pipe";
    Command::new("backup")
        .about("Write a snapshot of the SQLite store into one file, also while the service runs")
        .arg(Arg::new("file").required(true).value_name("FILE").help(file))
}

pub fn restore_command() -> Command {
    let file = "A file of `mirrorgate backup`, or from the bucket of BACKUP_URL; `-` is standard input";
    let force = "Overwrite the store that is there";
    Command::new("restore")
        .about("Check a backup and put it in the place of the SQLite store, while no service runs")
        .arg(Arg::new("file").required(true).value_name("FILE").help(file))
        .arg(Arg::new("force").long("force").action(ArgAction::SetTrue).help(force))
}

/// `backup FILE`
pub fn backup(config: Config, matches: &ArgMatches) -> ExitCode {
    run(&config, |store| {
        let advice = "`pg_dump --format=custom --file=copy.dump \"$DATABASE_URL\"` makes a backup";
        let store = store.map_err(|code| no_file(code, advice))?;
        if file(matches) == STANDARD { write_out(store) } else { write_to(Path::new(file(matches)), store) }
    })
}

/// `restore FILE`
pub fn restore(config: Config, matches: &ArgMatches) -> ExitCode {
    run(&config, |store| {
        let advice = "`pg_restore --no-owner --dbname=\"$DATABASE_URL\" copy.dump` fills an empty database";
        let store = store.map_err(|code| no_file(code, advice))?;
        let vault = Vault::new(config.store.secret_key.as_ref());
        put_back(file(matches), store, &vault, matches.get_flag("force"))
    })
}

fn file(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("file").map(String::as_str).unwrap_or_default()
}

/// Does a command's work on the store's file, or on what is there in place of one.
fn run(config: &Config, work: impl FnOnce(Result<&Path, &Location>) -> Result<(), Failure>) -> ExitCode {
    telemetry::start(&config::Log { filter: "error".into(), ..config.log.clone() });
    let store = match &config.store.location {
        Location::File(path) => Ok(path.as_path()),
        other => Err(other),
    };
    match work(store) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => fail(code, text),
    }
}

fn no_file(location: &Location, postgres: &str) -> Failure {
    let hint = match location {
        Location::Postgres { .. } => postgres,
        _ => "set DATA_DIR or DATABASE_URL as the service has them",
    };
    (78, format!("error: the store is no SQLite file, but {}\n  hint: {hint}", location.describe()))
}

fn write_to(target: &Path, store: &Path) -> Result<(), Failure> {
    // What a link names is replaced, and not the link.
    let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
    if snapshot::is_same_file(target, store) {
        return Err(mistake("this is the store itself", "give the backup a file of its own"));
    }
    if fs::metadata(target).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(mistake(
            "there is no plain file at this place",
            "give a file, or `-` for standard output",
        ));
    }
    let draft = draft(target, "part")?;
    let size = take(&draft, store)?;
    draft.place(target).map_err(|error| trouble(target, &error))?;
    let _ = say(format_args!("{size} bytes in {}\n", target.display()));
    Ok(())
}

fn write_out(store: &Path) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        return Err(mistake("a terminal cannot show a database", "name a file, or pipe it into a program"));
    }
    let draft = draft(store, "snapshot")?;
    take(&draft, store)?;
    let copied = File::open(draft.path()).and_then(|mut file| io::copy(&mut file, &mut io::stdout().lock()));
    copied.map(drop).map_err(|error| trouble(Path::new("standard output"), &error))
}

fn take(draft: &Draft, store: &Path) -> Result<u64, Failure> {
    let taken = Snapshots::of(store).and_then(|snapshots| snapshots.take(draft));
    taken.map_err(|error| (1, described(&error)))
}

fn put_back(source: &str, store: &Path, vault: &Vault, force: bool) -> Result<(), Failure> {
    if source == STANDARD && io::stdin().is_terminal() {
        return Err(mistake("a terminal holds no database", "name a file, or pipe a backup in"));
    }
    let path = Path::new(source);
    if source != STANDARD && snapshot::is_same_file(path, store) {
        return Err(mistake("this is the store itself", "name a backup of it"));
    }
    let _lock = lock(store, force)?;
    if snapshot::is_there(store) && !force {
        let what = format!("there is a store already: {}", store.display());
        return Err((1, format!("error: {what}\n  hint: `--force` overwrites it; back it up first")));
    }
    let draft = draft(store, "restored")?;
    if source == STANDARD {
        copy(vault, io::stdin().lock(), &draft)
            .map_err(|error| trouble(Path::new("standard input"), &error))?;
    } else {
        let copied = without_log(path).and_then(|()| copy(vault, File::open(path)?, &draft));
        copied.map_err(|error| trouble(path, &error))?;
    }
    let done = snapshot::check(&draft).and_then(|()| snapshot::put(draft, store));
    done.map_err(|error| (1, described(&error)))?;
    let _ = say(format_args!("restored {}\n", store.display()));
    Ok(())
}

/// Sees that nobody serves from the store, and nobody begins to.
fn lock(store: &Path, force: bool) -> Result<Option<ServiceLock>, Failure> {
    match ServiceLock::take(store) {
        Err(NoLock::Held(other)) => {
            let other = other.map_or("another process".into(), |id| format!("process {id}"));
            let what = format!("{other} serves from {}", store.display());
            Err((1, format!("error: {what}\n  hint: stop it first")))
        }
        Err(NoLock::Unwritable(error)) => Err(trouble(store, &error)),
        Ok(None) if !force => {
            let what = format!("it cannot be told whether a service uses {}", store.display());
            Err((1, format!("error: {what}\n  hint: stop the service, then give --force")))
        }
        Ok(lock) => Ok(lock),
    }
}

/// Refuses a file whose newest commits lie in another beside it.
fn without_log(path: &Path) -> io::Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match fs::metadata(PathBuf::from(log)) {
        Ok(metadata) if metadata.len() > 0 => Err(io::Error::other(
            "its newest commits are in the file beside it that ends in -wal; take it with `mirrorgate backup`",
        )),
        _ => Ok(()),
    }
}

/// Copies a backup, which is sealed if it comes from a bucket.
fn copy(vault: &Vault, mut source: impl Read, draft: &Draft) -> io::Result<()> {
    vault.open_file(&mut source, &mut OpenOptions::new().write(true).open(draft.path())?)
}

/// A draft that no other command of this kind writes into.
fn draft(target: &Path, end: &str) -> Result<Draft, Failure> {
    let draft = Draft::beside(target, &format!(".{}.{end}", std::process::id()));
    draft.map_err(|error| trouble(target, &error))
}

fn mistake(what: &str, hint: &str) -> Failure {
    (2, format!("error: {what}\n  hint: {hint}"))
}

fn trouble(place: &Path, error: &io::Error) -> Failure {
    (1, format!("error: {}: {error}", place.display()))
}
