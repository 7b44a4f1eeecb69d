//! Where settings come from: flags, the environment, and a file `.env`; and what a person is told of them
//! that stops nothing: names that were surely meant otherwise, doubled ones, a file in another encoding.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::config::{self, EnvEntry, settings};

/// The settings of flags, the environment and `.env`, in this order.
pub struct Settings<'a> {
    matches: &'a ArgMatches,
    file: Option<EnvFile>,
}

/// A file `.env` that was found.
struct EnvFile {
    path: PathBuf,
    entries: Vec<EnvEntry>,
    values: HashMap<String, String>,
    encoding: Option<&'static str>,
}

impl<'a> Settings<'a> {
    /// Reads `.env`: that of the current directory, else the one beside the program.
    ///
    /// # Errors
    /// What is wrong with the file, with its line.
    pub fn read(matches: &'a ArgMatches) -> Result<Self, String> {
        let folder = std::env::current_dir().unwrap_or_default();
        let program = std::env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join(".env"));
        for path in [Some(folder.join(".env")), beside].into_iter().flatten() {
            match std::fs::read(&path) {
                Ok(bytes) => return Ok(Settings { matches, file: Some(EnvFile::of(path, &bytes)?) }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(format!("error: {}: {error}", path.display())),
            }
        }
        Ok(Settings { matches, file: None })
    }

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<String> {
        let flag = self.matches.try_get_one::<String>(name).ok().flatten().cloned();
        // Platforms' own variables are no settings, so clap does not know them.
        flag.or_else(|| std::env::var(name).ok())
            .filter(|value| !value.trim().is_empty())
            .or_else(|| self.file.as_ref()?.values.get(name).cloned())
    }

    /// The variables that are there, to find misspelt ones.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        environment().chain(self.entries().map(|entry| entry.name.clone()))
    }

    /// Which file was read, and how many settings it gave.
    pub fn source(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        let count = file.values.keys().filter(|name| config::is_known(name)).count();
        Some(format!("{} ({count} setting{})", file.path.display(), if count == 1 { "" } else { "s" }))
    }

    /// What a person should know of them, with what to do.
    pub fn remarks(&self) -> Vec<(String, String)> {
        let mut remarks = self.secrets_in_flags();
        if let Some(file) = &self.file {
            remarks.extend(file.remarks());
        }
        let meant = environment().filter_map(|name| {
            let setting = config::surely_meant(&name)?;
            // Whoever has set that one knows its name.
            self.get(&setting).is_none().then(|| mistaken(&format!("the variable {name}"), &setting))
        });
        remarks.extend(meant);
        remarks
    }

    fn entries(&self) -> impl Iterator<Item = &EnvEntry> {
        self.file.iter().flat_map(|file| &file.entries)
    }

    /// A secret on the command line is seen by all users of the machine, in the list of processes.
    fn secrets_in_flags(&self) -> Vec<(String, String)> {
        let given = |name: &str| {
            self.matches.try_contains_id(name).is_ok()
                && self.matches.value_source(name) == Some(ValueSource::CommandLine)
        };
        let secret = settings::all().filter(|setting| setting.kind.is_secret() && given(setting.name));
        let told = secret.map(|setting| {
            (
                format!("--{} shows a secret to everyone on this machine", setting.flag()),
                format!("set {0}, or {0}_FILE to the path of a file that holds it", setting.name),
            )
        });
        told.collect()
    }
}

impl EnvFile {
    fn of(path: PathBuf, bytes: &[u8]) -> Result<Self, String> {
        let trouble = |(line, what): (usize, &str)| format!("error: {}, line {line}: {what}", path.display());
        let (text, encoding) = config::decode_env_file(bytes).map_err(trouble)?;
        let entries = config::env_entries(&text).map_err(trouble)?;
        let values = entries.iter().map(|entry| (entry.name.clone(), entry.value.clone())).collect();
        Ok(EnvFile { path, entries, values, encoding })
    }

    fn remarks(&self) -> Vec<(String, String)> {
        let path = self.path.display();
        let mut remarks = Vec::new();
        if let Some(encoding) = self.encoding {
            remarks.push((
                format!("{path} is written in {encoding}, and was read so"),
                "save it as UTF-8, which other programs read as well".into(),
            ));
        }
        let mut lines: HashMap<&str, usize> = HashMap::new();
        for EnvEntry { name, line, .. } in &self.entries {
            if let Some(earlier) = lines.insert(name, *line) {
                remarks.push((
                    format!("{path}: {name} stands on line {earlier} and on line {line}: the last one holds"),
                    "remove one of the two".into(),
                ));
                continue;
            }
            let place = format!("{path}, line {line}: {name}");
            if let Some(setting) = config::meant(name) {
                remarks.push(mistaken(&place, &setting));
            } else if config::begins_as_ours(name) && !config::is_known(name) {
                remarks.push((
                    format!("{place} is no setting, and was passed over"),
                    "see `mirrorgate --help` for those that are".into(),
                ));
            }
        }
        remarks
    }
}

/// The remark on a name that is no setting's.
fn mistaken(place: &str, setting: &str) -> (String, String) {
    (format!("{place} is no setting, and was passed over"), format!("did you mean {setting}?"))
}

fn environment() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}
