use super::*;
use actix_web::test::TestRequest;

#[test]
fn every_form_of_presenting_a_key_is_understood() {
    let key = "sk-0123/4+5=";
    let encoded = STANDARD.encode(format!("user:{key}"));
    for value in [
        format!("Bearer {key}"),
        format!("bearer  {key} "),
        format!("Bearer Bearer {key}"),
        format!("Basic {key}"),
        format!("Basic {encoded}"),
        format!("Basic Bearer {key}"),
        format!("Token {key}"),
        format!("Bearer dify:{key}"),
        key.to_string(),
    ] {
        let request =
            TestRequest::default().insert_header(("Authorization", value.as_str())).to_http_request();
        let presented = presented(&request);
        let mut keys = presented.iter().flat_map(meant);
        assert!(keys.any(|(meant, place)| meant == key && place == Place::Header), "{value}");
    }
    for value in [format!(" {key} "), format!("Bearer {key}")] {
        let request = TestRequest::default().insert_header(("X-API-Key", value)).to_http_request();
        assert_eq!(presented(&request), [(key.to_string(), Place::Header)]);
    }
    let request = TestRequest::with_uri("/api/models?x=1&key=sk-0123%2F4%2B5%3D%0A").to_http_request();
    assert_eq!(presented(&request), [(key.to_string(), Place::Query)]);
    for value in ["Bearer ", "Basic", ""] {
        let request = TestRequest::default().insert_header(("Authorization", value)).to_http_request();
        assert_eq!(presented(&request), [], "{value}");
    }
}
