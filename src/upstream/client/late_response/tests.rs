use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Url;

use super::{super::outbound_request::RequestMode, pending::MAX_SECOND, *};
use crate::{
    oci::Operation,
    upstream::{
        auth::{
            scope::Scope,
            token::{TokenKey, TokenSubject},
        },
        principal::PrincipalKey,
    },
};

fn request<'a>(url: &Url, start: &Url, redirects: usize, principal: Option<Principal>) -> OutboundRequest<'a> {
    let request = OutboundRequest::new(Operation::Manifest, Method::GET, url.clone());
    OutboundRequest { principal, start: start.clone(), redirects, ..request }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn answering(status: u16) -> Sending {
    let response = http::Response::builder().status(status).header(header::RETRY_AFTER, "60").body("");
    Box::pin(async { Ok(response.unwrap().into()) })
}

fn never() -> Sending {
    Box::pin(std::future::pending())
}

async fn taken(late: &LateResponses, request: &LateRequest) -> Option<Response> {
    late.take(request).first().await
}

#[tokio::test(start_paused = true)]
async fn age_and_retry_after_count_from_the_receipt() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let asked = late.identify(&request(&url, &url, 0, None)).unwrap();
    late.keep(asked, answering(200), false);
    // The task runs, and its answer lies there.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let answer = taken(&late, &asked).await.unwrap();
    assert_eq!(resident_time(&answer), Duration::from_secs(45));
    let left: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert_eq!(left, 15);
    assert!(taken(&late, &asked).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_late_response_is_kept_for_a_minute() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let asked = late.identify(&request(&url, &url, 0, None)).unwrap();
    late.keep(asked, answering(200), false);
    tokio::time::sleep(MAX_KEPT + Duration::from_secs(1)).await;
    assert!(taken(&late, &asked).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_clients_response_is_kept_no_longer_than_its_grant() {
    let (late, url) = (LateResponses::new(Some(Duration::from_secs(10))), url("https://a.example/v2/"));
    for (seconds, principal, is_there) in
        [(9, Some(Principal::ANONYMOUS), true), (11, Some(Principal::ANONYMOUS), false), (11, None, false)]
    {
        let asked = late.identify(&request(&url, &url, 0, principal)).unwrap();
        late.keep(asked, answering(200), false);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert_eq!(taken(&late, &asked).await.is_some(), is_there, "{seconds} {principal:?}");
    }
}

#[test]
fn logins_and_pushes_get_no_late_response() {
    let late = LateResponses::new(None);
    let [tag, scoped, login] = [
        "https://a.example/v2/a/manifests/1",
        "https://a.example/t?service=a&scope=b",
        "https://a.example/t?service=a",
    ]
    .map(url);
    for (url, operation, mode, is_kept) in [
        (&tag, Operation::Manifest, RequestMode::Normal, true),
        (&tag, Operation::Manifest, RequestMode::Push, false),
        (&tag, Operation::Manifest, RequestMode::Dedicated, false),
        (&scoped, Operation::Token, RequestMode::Normal, true),
        (&login, Operation::Token, RequestMode::Normal, false),
        (&tag, Operation::Base, RequestMode::Normal, false),
    ] {
        let request = OutboundRequest { operation, mode, ..request(url, url, 0, None) };
        assert_eq!(late.identify(&request).is_some(), is_kept, "{url} {operation:?} {mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_response_is_kept_over_a_change() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let ask = || late.identify(&request(&url, &url, 0, None)).unwrap();
    let before = ask();
    late.keep(before, answering(200), false);
    let change = late.change();
    assert!(taken(&late, &before).await.is_none());
    let during = ask();
    late.keep(during, answering(200), false);
    drop(change);
    for outdated in [before, during] {
        late.keep(outdated, answering(200), false);
        assert!(taken(&late, &ask()).await.is_none());
    }
    late.keep(ask(), answering(200), false);
    assert!(taken(&late, &ask()).await.is_some());
}

#[test]
fn requests_are_equal_whatever_their_redirect_targets() {
    let late = LateResponses::new(None);
    let (start, other) = (url("https://a.example/v2/x"), url("https://a.example/v2/y"));
    let signed = |text| url(&format!("https://cdn.example/{text}"));
    let id = |request: OutboundRequest<'_>| late.identify(&request).unwrap().id;
    let first = signed("x?signature=1");
    let expected = id(request(&first, &start, 1, None));
    for (text, start, hop, principal, is_same) in [
        ("x?signature=2", &start, 1, None, true),
        ("x/2", &start, 1, None, true),
        ("x?signature=1", &other, 1, None, false),
        ("x?signature=1", &start, 2, None, false),
        ("x?signature=1", &start, 1, Some(Principal::ANONYMOUS), false),
    ] {
        let url = signed(text);
        assert_eq!(id(request(&url, start, hop, principal)) == expected, is_same, "{text} {start} {hop}");
    }
    let elsewhere = url("https://other.example/x?signature=1");
    assert!(id(request(&elsewhere, &start, 1, None)) != expected);
    let login = OutboundRequest { operation: Operation::Base, ..request(&start, &start, 0, None) };
    assert!(late.identify(&login).is_none());
}

#[tokio::test(start_paused = true)]
async fn only_responses_that_serve_the_next_request_are_kept() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    for (status, is_kept) in
        [(200, true), (206, true), (307, true), (401, true), (403, false), (404, false), (429, false), (503, false)]
    {
        for is_awaited in [false, true] {
            let asked = late.identify(&request(&url, &url, 0, None)).unwrap();
            late.keep(asked, answering(status), false);
            if !is_awaited {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let answer = taken(&late, &asked).await;
            assert_eq!(answer.is_some(), is_kept || is_awaited, "{status} {is_awaited}");
        }
    }
}

fn with_token(
    key: &TokenKey,
    token: &str,
    url: &Url,
    principal: Option<Principal>,
    late: &LateResponses,
) -> LateRequest {
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token.parse().unwrap())]);
    late.identify(&OutboundRequest { headers, token: Some(key), ..request(url, url, 0, principal) }).unwrap()
}

fn key(subject: TokenSubject, realm: &str, repository: &str) -> TokenKey {
    let scope = Scope::Pull(repository.parse().unwrap());
    TokenKey { subject, realm: url(realm), service: None, scope }
}

#[test]
fn requests_with_tokens_of_one_key_are_equal() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let (subject, realm) = (TokenSubject::Configured, "https://realm.example/");
    let pull = key(subject, realm, "a");
    let first = with_token(&pull, "Bearer 1", &url, None, &late).id;
    assert!(with_token(&pull, "Bearer 2", &url, None, &late).id == first);
    assert!(with_token(&pull, "Bearer 1", &url, Some(Principal::ANONYMOUS), &late).id != first);
    for other in [
        key(subject, realm, "b"),
        key(subject, "https://other.example/", "a"),
        key(TokenSubject::Anonymous, realm, "a"),
        TokenKey { service: Some("s".to_owned()), ..pull.clone() },
    ] {
        assert!(with_token(&other, "Bearer 1", &url, None, &late).id != first, "{other:?}");
    }
    let password = |value: &'static str| {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
        late.identify(&OutboundRequest { headers, ..request(&url, &url, 0, None) }).unwrap().id
    };
    assert!(password("Basic 1") == password("Basic 1") && password("Basic 1") != password("Basic 2"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_principal_gets_no_late_responses() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let client = |name: &str| PrincipalKey::generate().unwrap().credential(name.into(), "secret".into()).principal;
    let (ann, bob) = (client("ann"), client("bob"));
    let pull = |who| key(TokenSubject::Client(who), "https://realm.example/", "a");
    let other = |who| key(TokenSubject::Client(who), "https://realm.example/", "b");
    let ask = |who| with_token(&pull(who), "Bearer 1", &url, Some(who), &late);
    let on_its_way = ask(ann);
    for who in [ann, bob] {
        late.keep(ask(who), answering(200), false);
    }
    late.refused(Some(ann), Some(&with_token(&other(ann), "Bearer 1", &url, Some(ann), &late)));
    late.keep(on_its_way, answering(200), false);
    assert!(taken(&late, &ask(ann)).await.is_none());
    assert!(taken(&late, &ask(bob)).await.is_some());
    late.keep(ask(ann), answering(200), false);
    assert!(taken(&late, &ask(ann)).await.is_some());
    // Of forebay's own token for one repository, that is no word on the others.
    let own = |name| with_token(&key(TokenSubject::Configured, "https://realm.example/", name), "x", &url, None, &late);
    ["a", "b"].into_iter().for_each(|name| late.keep(own(name), answering(200), false));
    late.refused(None, Some(&own("a")));
    assert!(taken(&late, &own("a")).await.is_none());
    assert!(taken(&late, &own("b")).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_refusal_of_an_earlier_token_is_not_reused() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let pull = key(TokenSubject::Configured, "https://realm.example/", "a");
    let ask = |token| with_token(&pull, token, &url, None, &late);
    for status in [401, 403] {
        let sending = answering(status);
        late.keep(ask("Bearer 1"), sending, false);
        assert!(taken(&late, &ask("Bearer 2")).await.is_none(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_request_takes_the_place_of_the_oldest() {
    let late = LateResponses::new(None);
    let urls: Vec<_> = (0..=MAX_LATE).map(|number| url(&format!("https://a.example/v2/{number}"))).collect();
    let ask = |number: usize| late.identify(&request(&urls[number], &urls[number], 0, None)).unwrap();
    late.keep(ask(0), answering(200), false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    (1..=MAX_LATE).for_each(|number| late.keep(ask(number), never(), false));
    let is_there = |number| !late.take(&ask(number)).is_empty();
    let there: Vec<_> = (0..=MAX_LATE).map(is_there).collect();
    // The first was answered, and stays.
    let expected: Vec<_> = (0..=MAX_LATE).map(|number| number != 1).collect();
    assert_eq!(there, expected);
}

#[tokio::test(start_paused = true)]
async fn at_most_two_equal_requests_go_on() {
    let (late, url) = (LateResponses::new(None), url("https://a.example/v2/"));
    let ask = || late.identify(&request(&url, &url, 0, None)).unwrap();
    let begin = || late.keep(ask(), never(), false);
    begin();
    let taken = late.take(&ask());
    assert!(!taken.is_empty() && !taken.is_full());
    late.put_back(&ask(), taken);
    begin();
    let mut taken = late.take(&ask());
    assert!(taken.is_full());
    tokio::time::sleep(MAX_SECOND).await;
    assert!(!taken.is_full());
    taken.make_room();
    assert_eq!(taken.0.len(), 1);
    late.put_back(&ask(), taken);
    (0..3).for_each(|_| begin());
    let taken = late.take(&ask());
    assert_eq!(taken.0.len(), MAX_EQUAL);
    // The first is the one that has gone on for longest.
    assert_eq!(taken.0[0].number, 0);
}
