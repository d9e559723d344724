//! The exchange with a token realm: forebay sends a credential, or none, and gets a token.
//!
//! A realm has two dialects: a GET with Basic, which every realm supports for anonymous clients and passwords; and an
//! OAuth2 POST, which identity tokens need and some realms lack. forebay ignores when a realm claims to have issued a
//! token, since the realm's clock may be wrong: it counts the life of a token from its receipt.
//!
//! Source: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication".

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::{
    super::{
        Principal,
        client::{
            Sender,
            body::{discard, whole_body},
            follow_redirects::send_and_follow,
            late_response,
            outbound_request::OutboundRequest,
        },
        error::{Error, ErrorKind},
        failure_cause::FailureCause,
        head,
        redacted_url::RedactedUrl,
        response::{
            self,
            redaction::PrivateNames,
            refusal::{Refusal, RefusalBody},
        },
    },
    credential::{Credential, Secret, basic_authorization},
    scope::Scope,
    token::Token,
};
use crate::oci::Operation;

/// The longest response of a realm that forebay reads, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The life of a token whose response does not state it.
///
/// Source: distribution, "Token Authentication Specification", `expires_in`.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// OAuth2 requires a client to have a name.
const CLIENT_ID: &str = "forebay";

/// A request for a token.
pub(in crate::upstream) struct TokenRequest<'a> {
    pub realm: &'a Url,
    pub service: Option<&'a str>,
    pub scope: &'a Scope,
    /// `None`: an anonymous request. The realm must be trusted with the credential.
    pub credential: Option<&'a Credential>,
    /// The client that the token is for. If the realm does not understand the request, the client is at fault; a 429 of
    /// the realm concerns this client alone. `None`: forebay itself.
    pub client: Option<Principal>,
}

impl TokenRequest<'_> {
    /// Fetches a token. If its response waited in forebay for the token's whole life, fetches one more.
    pub(in crate::upstream) async fn fetch(&self, sender: &Sender) -> Result<Token, Error> {
        match self.fetch_one(sender).await {
            Ok(token) if token.usable().is_zero() => self.fetch_one(sender).await,
            fetched => fetched,
        }
    }

    async fn fetch_one(&self, sender: &Sender) -> Result<Token, Error> {
        match self.credential {
            None => self.conclude(self.get(sender, None).await?).await,
            Some(Credential::Password { username, password }) => {
                let got = self.get(sender, Some((username, password))).await?;
                // The realm supports OAuth2 only.
                if !matches!(got.0.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                    return self.conclude(got).await;
                }
                discard(got.0).await;
                let grant = [("grant_type", "password"), ("username", username), ("password", password.expose())];
                self.conclude(self.post(sender, &grant).await?).await
            }
            Some(Credential::IdentityToken { username, token }) => {
                let grant = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
                let posted = self.post(sender, &grant).await?;
                // Realms without OAuth2 respond with different statuses: GCR 404, others 405, Artifactory 401, ACR 400.
                // forebay does not follow a redirect with a secret in the body.
                let status = posted.0.status();
                if !(matches!(status.as_u16(), 400 | 401 | 404 | 405) || status.is_redirection()) {
                    return self.conclude(posted).await;
                }
                discard(posted.0).await;
                self.conclude(self.get(sender, Some((username, token))).await?).await
            }
        }
    }

    async fn get(&self, sender: &Sender, user: Option<(&str, &Secret)>) -> Result<(Response, Url), Error> {
        let scopes = self.scope.parameters();
        let account = user.map(|(username, _)| username).filter(|username| !username.is_empty());
        let service = self.service.map(|service| ("service", service));
        let scopes = scopes.iter().map(|scope| ("scope", &**scope));
        let parameters = service.into_iter().chain(scopes).chain(account.map(|account| ("account", account)));
        let mut url = self.realm.clone();
        for (name, value) in parameters {
            url.query_pairs_mut().append_pair(name, value);
        }
        let headers = user
            .map(|(username, secret)| (header::AUTHORIZATION, basic_authorization(username, secret)))
            .into_iter()
            .collect();
        let request = OutboundRequest::new(Operation::Token, Method::GET, url);
        let followed = send_and_follow(sender, OutboundRequest { principal: self.client, headers, ..request }).await?;
        Ok((followed.response, followed.url))
    }

    async fn post(&self, sender: &Sender, grant: &[(&str, &str)]) -> Result<(Response, Url), Error> {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let request = OutboundRequest::new(Operation::Token, Method::POST, self.realm.clone());
        let body = Some(self.form(grant));
        let request = OutboundRequest { principal: self.client, headers, body, ..request };
        Ok((sender.send(request).await?, self.realm.clone()))
    }

    /// The parameters of a POST. Several scopes are one `scope`, separated by spaces.
    fn form(&self, grant: &[(&str, &str)]) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(grant).append_pair("client_id", CLIENT_ID);
        if let Some(service) = self.service {
            form.append_pair("service", service);
        }
        let scopes = self.scope.parameters();
        if !scopes.is_empty() {
            form.append_pair("scope", &scopes.join(" "));
        }
        form.finish()
    }

    async fn conclude(&self, (response, url): (Response, Url)) -> Result<Token, Error> {
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, &url).await);
        }
        let waited = late_response::resident_time(&response);
        let body = match whole_body(response, &url, MAX_ANSWER).await {
            Err(error) if error.kind == ErrorKind::TooLarge => {
                let why = format!("the token realm {} answered with more than a token", RedactedUrl(&url));
                return Err(Error::new(ErrorKind::Protocol, why).caused_by(error));
            }
            other => other?,
        };
        parse(&body).map(|token| token.obtained_before(waited)).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, format!("the token realm {} answered without a token", RedactedUrl(&url)))
        })
    }

    async fn refused(&self, response: Response, url: &Url) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let of_client = self.client.is_some();
        let why = format!("the token realm {} answered {status}", RedactedUrl(url));
        let error = |kind| Error::new(kind, why).retry_after(&headers);
        let kind = failure(status, of_client);
        let meant = match kind {
            ErrorKind::Unauthorized => 401,
            ErrorKind::Denied => 403,
            ErrorKind::TooManyRequests => 429,
            _ => {
                discard(response).await;
                return error(kind);
            }
        };
        let body = response::body_of_refusal(response, url).await;
        if kind != ErrorKind::TooManyRequests && is_page(status, &headers, &body, of_client) {
            return error(ErrorKind::Unavailable).with_cause(FailureCause::NotARegistry);
        }
        // Clients must not learn the realm's host.
        let names = url.host_str().map(str::to_owned).into_iter().collect();
        let refusal = Refusal { status: meant, reasons: RefusalBody::parse_realm(&body).reasons };
        error(kind).with_refusal(refusal.without(&PrivateNames { names, requested: vec![] }))
    }
}

/// Whether a refusal comes from a server in front of the realm, such as an ingress without a backend or a firewall.
///
/// For a client, every 401 and 403 counts as the realm's. For forebay itself, an HTML page does not, and a 403 must
/// have errors of the specification, or no body. A 400 is the realm's own error about the request (OAuth2), whatever
/// its text.
fn is_page(status: StatusCode, headers: &HeaderMap, body: &[u8], of_client: bool) -> bool {
    if headers.contains_key(header::WWW_AUTHENTICATE) || headers.contains_key(head::API_VERSION) {
        return false;
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if of_client => false,
        StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => head::is_html(headers),
        StatusCode::FORBIDDEN => {
            head::is_html(headers) || !(body.is_empty() || RefusalBody::parse(body).is_of_registry)
        }
        _ => !RefusalBody::parse(body).is_of_registry,
    }
}

/// What a realm means by a status that is not 200.
fn failure(status: StatusCode, of_client: bool) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Denied,
        408 => ErrorKind::Timeout,
        429 => ErrorKind::TooManyRequests,
        508 => ErrorKind::Loop,
        500..=599 => ErrorKind::Unavailable,
        400..=499 if of_client => ErrorKind::Unauthorized,
        _ => ErrorKind::Protocol,
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds; a number by the specification, a string or a fraction at some realms.
    expires_in: Option<serde_json::Value>,
}

/// `None` if the response has no token, or one that cannot stand in a header.
pub fn parse(body: &[u8]) -> Option<Token> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let present = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let text = present(&answer.token).or_else(|| present(&answer.access_token))?;
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    });
    // Some realms send a life of zero instead of omitting it.
    let life = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).filter(|life| !life.is_zero());
    Token::new(&text, life.unwrap_or(DEFAULT_LIFE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_a_realm_is_a_refusal_an_outage_or_a_mistake() {
        for (status, ours, clients) in [
            (401, ErrorKind::Unauthorized, ErrorKind::Unauthorized),
            (403, ErrorKind::Denied, ErrorKind::Denied),
            (408, ErrorKind::Timeout, ErrorKind::Timeout),
            (429, ErrorKind::TooManyRequests, ErrorKind::TooManyRequests),
            (400, ErrorKind::Protocol, ErrorKind::Unauthorized),
            (499, ErrorKind::Protocol, ErrorKind::Unauthorized),
            (500, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (508, ErrorKind::Loop, ErrorKind::Loop),
            (599, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (204, ErrorKind::Protocol, ErrorKind::Protocol),
            (302, ErrorKind::Protocol, ErrorKind::Protocol),
        ] {
            let told = StatusCode::from_u16(status).unwrap();
            assert_eq!((failure(told, false), failure(told, true)), (ours, clients), "{status}");
        }
    }

    #[test]
    fn what_stands_in_front_of_a_realm_refuses_in_a_page() {
        let (text, html) = (Some("text/plain"), Some("text/html; charset=utf-8"));
        let json = Some("application/json");
        let errors = r#"{"errors":[{"code":"DENIED","message":"denied"}]}"#;
        for (status, kind, body, ours, clients) in [
            (401, json, r#"{"details":"incorrect username or password"}"#, false, false),
            (401, None, "", false, false),
            (401, text, "Auth failed.\n", false, false),
            (401, html, "<html>", true, false),
            (403, json, errors, false, false),
            (403, None, errors, false, false),
            (403, None, "", false, false),
            (403, text, "blocked", true, false),
            (403, html, "<html>", true, false),
            (403, json, r#"{"message":"blocked"}"#, true, false),
            (400, json, r#"{"error":"invalid_service"}"#, false, false),
            (400, text, "no such service", false, false),
            (400, html, "<html>", true, true),
            (404, text, "default backend - 404", true, true),
            (404, html, "<html>", true, true),
            (404, None, "", true, true),
            (404, json, errors, false, false),
            (405, text, "", true, true),
            (410, html, "<html>", true, true),
            (421, None, "", true, true),
        ] {
            let headers: HeaderMap =
                kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind))).into_iter().collect();
            let status = StatusCode::from_u16(status).unwrap();
            let told = |of_client| is_page(status, &headers, body.as_bytes(), of_client);
            assert_eq!((told(false), told(true)), (ours, clients), "{status} {kind:?} {body}");
            for (name, value) in [(header::WWW_AUTHENTICATE, "Basic realm=x"), (head::API_VERSION, "registry/2.0")] {
                let mut headers = headers.clone();
                headers.insert(name, HeaderValue::from_static(value));
                assert!(
                    !is_page(status, &headers, body.as_bytes(), true)
                        && !is_page(status, &headers, body.as_bytes(), false)
                );
            }
        }
    }

    #[test]
    fn answers_of_real_realms() {
        let token = |life| Token::new("t", Duration::from_secs(life));
        for (body, expected) in [
            (r#"{"token":"t","access_token":"t","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#, token(300)),
            (r#"{"token":"t"}"#, token(60)),
            (r#"{"access_token":"t"}"#, token(60)),
            (r#"{"token":"","access_token":"t","expires_in":10}"#, token(10)),
            (r#"{"token":null,"access_token":"t"}"#, token(60)),
            (r#"{"token":"t","expires_in":"120"}"#, token(120)),
            (r#"{"token":"t","expires_in":90.0}"#, token(90)),
            (r#"{"token":"t","expires_in":0}"#, token(60)),
            (r#"{"token":"t","expires_in":-5}"#, token(60)),
            (r#"{"token":"t","expires_in":null}"#, token(60)),
            // A wrong clock, or a realm that caches, issued it long ago: the token is still good.
            (r#"{"token":"t","expires_in":300,"issued_at":"1999-01-01T00:00:00Z"}"#, token(300)),
            (r#"{"token":"t","issued_at":"garbage"}"#, token(60)),
            (r#"{"token":"a\nb"}"#, None),
            (r#"{"token":""}"#, None),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(parse(body.as_bytes()), expected, "{body}");
        }
    }
}
