//! Where snapshots of the store go: a bucket by S3's protocol, named and opened as other programs that speak
//! it are told.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::Location;
use super::reader::Reader;
use super::settings::{
    AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, BACKUP_INTERVAL_SECONDS, BACKUP_URL,
};

/// A bucket for snapshots of the store.
#[derive(Clone)]
pub struct Backup {
    /// The bucket's name in `BACKUP_URL`.
    pub bucket: String,
    /// What the names of its objects begin with, as a folder: empty, or with a slash at its end.
    pub prefix: String,
    /// `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`; `None` is Amazon's own.
    pub endpoint: Option<Url>,
    /// `AWS_REGION`
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`
    pub key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: SecretString,
    /// `AWS_SESSION_TOKEN`
    pub token: Option<SecretString>,
    /// `BACKUP_INTERVAL_SECONDS`
    pub interval: Duration,
}

impl Backup {
    /// The place for a person.
    pub fn describe(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }
}

impl Reader<'_> {
    /// The bucket for snapshots of a store at this location, if one is set. Without one, the variables
    /// that other programs use as well mean nothing here.
    pub fn backup(&mut self, location: &Location) -> Option<Backup> {
        let interval = self.read(&BACKUP_INTERVAL_SECONDS);
        let endpoint = self.read(&AWS_ENDPOINT_URL_S3).map(|text| (AWS_ENDPOINT_URL_S3.name, text));
        let endpoint = endpoint.or(self.read(&AWS_ENDPOINT_URL).map(|text| (AWS_ENDPOINT_URL.name, text)));
        let (key_id, region) = (self.read(&AWS_ACCESS_KEY_ID), self.read(&AWS_REGION));
        let secret = self.read(&AWS_SECRET_ACCESS_KEY).map(SecretString::from);
        let token = self.read(&AWS_SESSION_TOKEN).map(SecretString::from);
        let url = self.read(&BACKUP_URL)?;
        self.backed_up(location);
        let given =
            [(AWS_ACCESS_KEY_ID.name, key_id.is_some()), (AWS_SECRET_ACCESS_KEY.name, secret.is_some())];
        for (name, _) in given.into_iter().filter(|(_, is_given)| !is_given) {
            self.problem(name, "is needed by BACKUP_URL", "set the key that may read and write the bucket");
        }
        let endpoint = endpoint.and_then(|(name, text)| self.endpoint(name, &text));
        let (bucket, prefix) = self.place(&url)?;
        Some(Backup { bucket, prefix, endpoint, region, key_id: key_id?, secret: secret?, token, interval })
    }

    /// Bucket and prefix of a URL `s3://BUCKET/PREFIX`.
    fn place(&mut self, text: &str) -> Option<(String, String)> {
        let place = text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
        let is_name = |name: &str| {
            name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        match place {
            Some((bucket, folder)) if is_name(bucket) && !folder.contains(['?', '#']) => {
                let folder = folder.trim_matches('/');
                let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
                Some((bucket.into(), prefix))
            }
            _ => {
                let advice = "give s3://BUCKET/PREFIX; the address of the server is AWS_ENDPOINT_URL_S3";
                self.problem(BACKUP_URL.name, format!("`{text}` names no bucket"), advice);
                None
            }
        }
    }

    /// Sees that the store is one that can be backed up.
    fn backed_up(&mut self, location: &Location) {
        let (what, advice) = match location {
            Location::File(_) => return,
            Location::Postgres { .. } => (
                "backs up a SQLite file, and the store is PostgreSQL",
                "remove it: PostgreSQL keeps what it has, and `pg_dump` copies it; or remove DATABASE_URL",
            ),
            Location::Memory => (
                "backs up a SQLite file, and the store is in memory",
                "set DATA_DIR to a folder that can be written, which may be wiped, and no DATABASE_URL",
            ),
        };
        self.problem(BACKUP_URL.name, what, advice);
    }

    fn endpoint(&mut self, name: &str, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        if url.is_none() {
            let advice = "give scheme and host, such as https://ACCOUNT.r2.cloudflarestorage.com";
            self.problem(name, "is no http or https URL", advice);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const URL: (&str, &str) = ("BACKUP_URL", "s3://bucket/some/folder/");
    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s3cret")];
    const DISK: (&str, &str) = ("DATA_DIR", "/data");

    /// The backup of these settings, or the settings that are wrong.
    fn read(variables: &[(&str, &str)]) -> Result<Option<Backup>, Vec<String>> {
        let lookup =
            |name: &str| variables.iter().rfind(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let config = Config::load(&lookup, std::iter::empty());
        let config = config.map_err(|problems| {
            assert_eq!(problems.exit_code(), 2);
            assert!(!problems.to_string().contains("s3cret"));
            problems.0.into_iter().map(|problem| problem.setting).collect::<Vec<_>>()
        })?;
        assert_eq!(config.store.is_chosen, config.store.backup.is_some() || variables.contains(&DISK));
        Ok(config.store.backup)
    }

    #[test]
    fn a_bucket_is_named_as_other_programs_are_told_of_it() {
        let backup = read(&[URL, KEYS[0], KEYS[1], DISK]).expect("good").expect("a backup");
        assert_eq!((backup.bucket.as_str(), backup.prefix.as_str()), ("bucket", "some/folder/"));
        assert_eq!((backup.endpoint, backup.region.as_str()), (None, "us-east-1"));
        assert_eq!(backup.interval, Duration::from_secs(30));
        let root = read(&[("BACKUP_URL", "s3://bucket"), KEYS[0], KEYS[1], DISK]).expect("good");
        assert_eq!(root.expect("a backup").describe(), "s3://bucket/");
        let both = [("AWS_ENDPOINT_URL", "http://a:1"), ("AWS_ENDPOINT_URL_S3", "http://b:1")];
        let backup = read(&[URL, KEYS[0], KEYS[1], both[0], both[1], DISK]).expect("good").expect("a backup");
        assert_eq!(backup.endpoint.map(|url| url.to_string()).as_deref(), Some("http://b:1/"));
    }

    #[test]
    fn other_programs_variables_alone_mean_nothing() {
        assert!(read(&[("AWS_ENDPOINT_URL", "nonsense"), KEYS[0], DISK]).expect("good").is_none());
    }

    #[test]
    fn what_cannot_be_backed_up_or_reached_is_a_mistake() {
        for url in
            ["bucket/folder", "s3://", "s3://a", "s3://with space/x", "https://bucket", "s3://bucket/?x"]
        {
            assert_eq!(
                read(&[("BACKUP_URL", url), KEYS[0], KEYS[1], DISK]).err(),
                Some(vec!["BACKUP_URL".into()])
            );
        }
        for store in ["memory:", "postgres://u:p@db/x"] {
            let wrong = read(&[URL, KEYS[0], KEYS[1], ("DATABASE_URL", store)]).err();
            assert_eq!(wrong, Some(vec!["BACKUP_URL".into()]), "{store}");
        }
        let missing = vec!["AWS_ACCESS_KEY_ID".into(), "AWS_SECRET_ACCESS_KEY".into()];
        assert_eq!(read(&[URL, DISK]).err(), Some(missing));
        let endpoint = ("AWS_ENDPOINT_URL_S3", "minio:9000");
        assert_eq!(
            read(&[URL, KEYS[0], KEYS[1], endpoint, DISK]).err(),
            Some(vec!["AWS_ENDPOINT_URL_S3".into()])
        );
    }
}
