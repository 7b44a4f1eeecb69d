//! Names that are no settings and were surely meant for one.

use super::settings;

/// The setting that a name in our own file is meant for; `None` for a setting, and for what looks like none.
/// A file `.env` is often shared with other programs, so not each unknown name is a mistake.
pub fn meant(name: &str) -> Option<String> {
    near(name, |distance, length| distance <= 2 && distance * 4 <= length)
}

/// As [`meant`], for a variable of the process, most of which are other programs' business.
pub fn surely_meant(name: &str) -> Option<String> {
    if name.chars().any(|c| c.is_ascii_lowercase()) {
        return None;
    }
    near(name, |distance, length| distance * 6 <= length)
}

/// Whether a name begins as only ours do.
pub fn begins_as_ours(name: &str) -> bool {
    ["UPSTREAM_", "GATEWAY_"].iter().any(|begin| name.starts_with(begin))
}

/// Whether a name is a setting's, or that of the file which holds a secret one.
pub fn is_known(name: &str) -> bool {
    super::OBSOLETE.contains(&name) || known().any(|setting| setting == name)
}

fn known() -> impl Iterator<Item = String> {
    settings::all().flat_map(|setting| {
        let file = setting.kind.is_secret().then(|| format!("{}_FILE", setting.name));
        [Some(setting.name.to_string()), file].into_iter().flatten()
    })
}

/// The nearest name, where it is near enough by its distance and the length of the name.
fn near(name: &str, enough: impl Fn(usize, usize) -> bool) -> Option<String> {
    if is_known(name) {
        return None;
    }
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let distances = known().map(|setting| (strsim::osa_distance(&upper, &setting), setting));
    let (distance, setting) = distances.min()?;
    enough(distance, upper.len()).then_some(setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_for_the_setting_it_is_meant_for() {
        for (name, setting) in [
            ("UPSTREM_URL", Some("UPSTREAM_URL")),
            ("UPSTRAEM_COOKIE", Some("UPSTREAM_COOKIE")),
            ("upstream_url", Some("UPSTREAM_URL")),
            ("GATEWAY_API_KEY", Some("GATEWAY_API_KEYS")),
            ("UPSTREAM_APIKEY_FILE", Some("UPSTREAM_API_KEY_FILE")),
            ("MODEL", Some("MODELS")),
            ("PROT", Some("PORT")),
            ("PORT", None),
            ("ADMIN_KEY_FILE", None),
            ("MAX_LINE_BYTES", None),
            ("POSTGRES_PASSWORD", None),
            ("TZ", None),
        ] {
            assert_eq!(meant(name).as_deref(), setting, "{name}");
        }
    }

    #[test]
    fn variables_of_other_programs_are_let_alone() {
        for name in
            ["HOSTNAME", "HOME", "PATH", "POST", "MODEL", "http_proxy", "LOGNAME", "AWS_PROFILE", "PORTS"]
        {
            assert_eq!(surely_meant(name), None, "{name}");
        }
        assert_eq!(surely_meant("GATEWAY_API_KEY").as_deref(), Some("GATEWAY_API_KEYS"));
        assert_eq!(surely_meant("UPSTREM_URL").as_deref(), Some("UPSTREAM_URL"));
    }
}
