use super::*;
use crate::domain::error::Kind;

fn session(url: &str, line: &str) -> Session {
    let variables = [("UPSTREAM_URL", url), ("UPSTREAM_PROTOCOL", "web-chat"), ("UPSTREAM_COOKIE", line)];
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let config = config::Config::load(&lookup, std::iter::empty()).expect("good settings");
    Session::new(&Url::parse(url).expect("a URL"), &config.upstream)
}

fn sorted(session: &Session, url: &Url) -> String {
    let line = session.cookie_header(url).unwrap_or_default();
    let mut pairs: Vec<&str> = line.split("; ").collect();
    pairs.sort_unstable();
    pairs.join("; ")
}

#[test]
fn cookies_are_seeded_adopted_replaced_and_kept_to_their_host() {
    let session = session("https://mirror.example.com/x", "sso=old; theme=dark=1; ; broken");
    let url = Url::parse("https://mirror.example.com/rest/app-chat/conversations/new").expect("url");
    assert_eq!(sorted(&session, &url), "sso=old; theme=dark=1");
    let lines =
        ["sso=new; Path=/; Secure; HttpOnly", "theme=; Max-Age=0; Path=/", "evil=1; Domain=example.org"];
    session.adopt(&url, lines.into_iter(), Login::default());
    assert_eq!(sorted(&session, &url), "sso=new");
    assert_eq!(session.cookie_header(&Url::parse("https://other.example.com/").expect("url")), None);
    assert_eq!(session.cookie_header(&Url::parse("http://mirror.example.com/").expect("url")), None);
}

#[test]
fn a_kept_session_returns_until_the_settings_change() {
    let (address, url) = ("https://m.example.com", Url::parse("https://m.example.com/").expect("url"));
    let first = session(address, "sso=old");
    first.adopt(&url, ["sso=new; Path=/; Max-Age=99999999"].into_iter(), Login::default());
    let kept = first.snapshot();
    let second = session(address, "sso=old");
    assert!(second.restore(&kept));
    assert_eq!(sorted(&second, &url), "sso=new");
    let third = session(address, "sso=fresh");
    assert!(!third.restore(&kept) && !third.restore("nonsense"));
    assert_eq!(sorted(&third, &url), "sso=fresh");
}

#[test]
fn what_an_answer_brings_to_an_earlier_login_is_dropped() {
    let url = Url::parse("https://m.example.com/").expect("url");
    let session = session("https://m.example.com", "sso=old");
    let login = session.login();
    session.replace(&session.with(&Credentials { cookie: Some("sso=new".into()), api_key: None }));
    session.adopt(&url, ["sso=old-renewed; Path=/"].into_iter(), login);
    assert_eq!(sorted(&session, &url), "sso=new");
    session.adopt(&url, ["sso=new-renewed; Path=/"].into_iter(), session.login());
    assert_eq!(sorted(&session, &url), "sso=new-renewed");
}

#[test]
fn of_two_that_are_kept_at_the_same_time_the_later_login_stays() {
    let session = |()| session("https://m.example.com", "sso=old");
    let (one, other) = (session(()), session(()));
    assert!(!one.restore_later(&other.snapshot()));
    other.replace(&other.with(&Credentials { cookie: Some("sso=new".into()), api_key: None }));
    assert!(one.restore_later(&other.snapshot()) && one.login() == other.login());
    assert!(!one.restore_later(&session(()).snapshot()));
}

#[test]
fn a_login_that_was_swapped_in_keeps_since_when_it_is_in_use() {
    let session = |()| session("https://m.example.com", "sso=old");
    let (one, other) = (session(()), session(()));
    assert_eq!(one.since(), None, "the settings do not tell");
    one.replace(&one.with(&Credentials { cookie: Some("sso=new".into()), api_key: None }));
    let since = one.since();
    assert!(since.is_some_and(|since| since <= SystemTime::now()));
    assert!(other.restore(&one.snapshot()) && other.since() == since);
    // What a version before this one kept does not tell it.
    let earlier = one.snapshot().replacen("\"since\"", "\"was\"", 1);
    assert!(other.restore(&earlier) && other.since().is_none());
}

#[test]
fn the_end_of_a_login_is_seen_coming() {
    let url = Url::parse("https://m.example.com/").expect("url");
    let session = session("https://m.example.com", "sso=a; __cf_bm=b");
    session.learn(Ok(()), true);
    session.adopt(
        &url,
        ["__cf_bm=c; Max-Age=1800", "other=1; Max-Age=60", "sso=b; Max-Age=9999999"].into_iter(),
        Login::default(),
    );
    assert_eq!(session.state(), State::Ok);
    session.adopt(&url, ["sso=c; Max-Age=3600"].into_iter(), Login::default());
    assert_eq!(session.state(), State::Expiring);
    session.learn(Err(&Error::new(Kind::UpstreamAuthExpired, "no")), true);
    assert_eq!(session.state(), State::Expired);
    session.learn(Ok(()), false);
    assert_eq!(session.state(), State::Expired);
}
