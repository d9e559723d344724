use super::*;
use crate::upstream::{CredentialSource, auth::credential::Secret};

fn of_client(taken_before: bool) -> (Authorization, PrincipalVerdict) {
    let judged = PrincipalVerdict::default();
    if taken_before {
        judged.note_accepted_before();
    }
    let proof = Proof::BasicOfClient(judged.clone());
    (Authorization { value: HeaderValue::from_static("Basic YTpi"), proof }, judged)
}

fn of_token(identity: TokenSubject) -> Authorization {
    let realm = Url::parse("https://auth.example/token").unwrap();
    let key = TokenKey { identity, realm, service: None, scope: Scope::Login };
    let token = Token::new("t", Duration::from_secs(60)).unwrap();
    Authorization { value: token.authorization(), proof: Proof::Token { key: Box::new(key), token, judged: None } }
}

/// What a realm gave for a client's password.
fn of_token_of_client(taken_before: bool) -> (Authorization, PrincipalVerdict) {
    let (Authorization { value, proof }, (_, of_client)) = (of_token(TokenSubject::Anonymous), of_client(taken_before));
    let Proof::Token { key, token, .. } = proof else { panic!("it is a token") };
    (Authorization { value, proof: Proof::Token { key, token, judged: Some(of_client.clone()) } }, of_client)
}

fn authenticator(credential: CredentialSource) -> Authenticator {
    let config = Config { credential, ..Config::at("a.example", &[]) };
    Authenticator::new(&config, &Context::of_test()).unwrap()
}

#[test]
fn an_answer_judges_a_clients_password() {
    for (error, first, later) in [
        (None, Verdict::Accepted, Verdict::Accepted),
        (Some(ErrorKind::Unauthorized), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::Denied), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::NotFound), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::Protocol), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::Unavailable), Verdict::Unknown, Verdict::Unknown),
        (Some(ErrorKind::Timeout), Verdict::Unknown, Verdict::Unknown),
        (Some(ErrorKind::TooManyRequests), Verdict::Unknown, Verdict::Unknown),
    ] {
        for (taken_before, expected) in [(false, first), (true, later)] {
            let (authorization, judged) = of_client(taken_before);
            authorization.judge(error);
            assert_eq!(judged.verdict(), expected, "{error:?} {taken_before}");
        }
    }
}

#[test]
fn an_answer_to_a_token_judges_the_password_it_was_given_for() {
    for (error, first, later) in [
        (None, Verdict::Accepted, Verdict::Accepted),
        (Some(ErrorKind::Unauthorized), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::Denied), Verdict::Refused, Verdict::Unknown),
        (Some(ErrorKind::NotFound), Verdict::Unknown, Verdict::Unknown),
        (Some(ErrorKind::Protocol), Verdict::Unknown, Verdict::Unknown),
        (Some(ErrorKind::Unavailable), Verdict::Unknown, Verdict::Unknown),
    ] {
        for (taken_before, expected) in [(false, first), (true, later)] {
            let (authorization, judged) = of_token_of_client(taken_before);
            assert_eq!(authorization.may_be_guess(), !taken_before);
            authorization.judge(error);
            assert_eq!(judged.verdict(), expected, "{error:?} {taken_before}");
        }
    }
}

#[test]
fn a_clients_password_is_a_guess_until_it_was_taken() {
    let ((new, _), (known, _), token) = (of_client(false), of_client(true), of_token(TokenSubject::Anonymous));
    let told = |of: &Authorization| (of.is_token(), of.is_clients_password(), of.may_be_guess());
    assert_eq!((told(&new), told(&known)), ((false, true, true), (false, true, false)));
    assert_eq!(told(&token), (true, false, false));
    let credential = Arc::new(Credential::Password { username: "a".into(), password: Secret::new("b".into()) });
    let proof = Proof::Basic { credential, turn: None, scope: Scope::Login };
    let ours = Authorization { value: HeaderValue::from_static("Basic YTpi"), proof };
    assert_eq!(told(&ours), (false, false, false));
    assert!(ours.is_own_password() && !new.is_own_password() && !token.is_own_password());
}

#[tokio::test]
async fn credentials_that_had_no_part_in_a_token_are_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "pw").unwrap();
    let password = CredentialSource::Password { username: "me".to_owned(), password_file: path };
    let asker = crate::upstream::PrincipalKey::generate().unwrap().credential("ann".into(), "pw".into()).asker;
    for (source, identity, of_client, told) in [
        (&password, TokenSubject::Anonymous, false, true),
        (&password, TokenSubject::Configured, false, false),
        (&CredentialSource::Anonymous, TokenSubject::Anonymous, false, false),
        (&CredentialSource::Anonymous, TokenSubject::Anonymous, true, true),
        (&CredentialSource::Anonymous, TokenSubject::Client(asker), true, false),
    ] {
        let why = authenticator(source.clone()).unused(&of_token(identity), of_client).await.unwrap();
        assert_eq!(why.is_some_and(|why| why.contains("auth.example")), told, "{source:?} {identity:?} {of_client}");
    }
}
