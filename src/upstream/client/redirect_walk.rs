//! One request, followed through its redirects to the answer that counts.
//!
//! The rules of each step are [`redirect`]'s; here is the walk. Credentials that were left behind at
//! a change of origin are not taken up again, wherever the way leads afterwards.
//!
//! [`redirect`]: super::redirect

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::Instant;

use super::{
    super::{
        Principal,
        auth::token::TokenKey,
        error::{Error, ErrorKind, Shown},
        response,
        via::Mirrors,
    },
    FIRST_BYTE, Manner, Question, Sender, discard, late_response, redirect,
};
use crate::oci::{ContentRange, Operation};

/// The answer at the end of the way.
pub(in crate::upstream) struct Followed {
    pub response: Response,
    /// Who gave the answer.
    pub url: Url,
    /// Whether the way left the origin that was asked.
    pub away: bool,
    /// The status that the origin itself gave, and whether it is a forebay.
    pub first: First,
    /// When the oldest answer of the way came, if that was kept.
    came: Option<Instant>,
    /// Where the way began, and how many redirects ago.
    start: Url,
    hop: usize,
}

/// What the first answer of a way tells of who gave it.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct First {
    pub status: StatusCode,
    pub by_mirror: bool,
}

impl First {
    fn of(response: &Response) -> Self {
        Self { status: response.status(), by_mirror: Mirrors::in_headers(response.headers()).is_some() }
    }
}

impl Followed {
    /// For how long its answer was kept before it was given.
    pub(crate) fn resident_time(&self) -> Duration {
        self.came.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Whether it is a part of what was asked for.
    pub(crate) fn is_part(&self) -> bool {
        self.response.status() == StatusCode::PARTIAL_CONTENT
    }
}

/// In whose name a request is sent, and what tells its token from others, if it shows one.
pub(in crate::upstream) type Name<'a> = (Option<Principal>, Option<&'a TokenKey>);

/// Sends a GET or a HEAD in this name, and follows where it is led.
pub(in crate::upstream) async fn follow(
    sender: &Sender,
    manner: Manner,
    name: Name<'_>,
    operation: Operation,
    method: Method,
    start: Url,
    mut headers: HeaderMap,
) -> Result<Followed, Error> {
    let (principal, token) = name;
    let mut url = start.clone();
    let mut away = false;
    let (mut first, mut came) = (None, None);
    for hop in 0..=redirect::MAX_HOPS {
        let question = Question {
            manner,
            principal,
            token,
            operation,
            method: method.clone(),
            url: &url,
            start: &start,
            hop,
            headers: headers.clone(),
            body: None,
        };
        let response = Box::pin(sender.ask(question)).await?;
        let first = *first.get_or_insert_with(|| First::of(&response));
        came = late_response::came(&response).into_iter().chain(came).min();
        if !redirect::is_redirect(response.status()) {
            let followed = Followed { response, url, away, first, came, start, hop };
            return if operation == Operation::Blob && is_refused_head(&method, &followed) {
                Box::pin(probe(sender, manner, name, followed, headers)).await
            } else {
                Ok(followed)
            };
        }
        let next = redirect::target(&url, response.headers())?;
        discard(response).await;
        if !redirect::same_origin(&url, &next) {
            headers.remove(header::AUTHORIZATION);
            away = true;
        }
        url = next;
    }
    let why = format!("{} redirects more than {} times in a row", Shown(&start), redirect::MAX_HOPS);
    Err(Error::new(ErrorKind::Protocol, why))
}

/// Whether a HEAD was led to a URL that is signed for GET alone.
fn is_refused_head(method: &Method, followed: &Followed) -> bool {
    *method == Method::HEAD
        && followed.away
        && matches!(
            followed.response.status(),
            StatusCode::BAD_REQUEST
                | StatusCode::FORBIDDEN
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED
        )
}

/// Asks for the first byte in place of the head: the answer tells the length, and costs no transfer.
/// Only for blobs: the GET of a manifest counts as a pull.
async fn probe(
    sender: &Sender,
    manner: Manner,
    (principal, token): Name<'_>,
    refused: Followed,
    mut headers: HeaderMap,
) -> Result<Followed, Error> {
    let ask = |headers| {
        let (operation, method, body) = (Operation::Blob, Method::GET, None);
        let Followed { url, start, hop, .. } = &refused;
        sender.ask(Question { manner, principal, token, operation, method, url, start, hop: *hop, headers, body })
    };
    headers.insert(header::RANGE, HeaderValue::from_static(FIRST_BYTE));
    match ask(headers.clone()).await {
        Ok(response) if response::is_content(response.headers()) && tells_length(&response) => {
            return Ok(Followed { response, ..refused });
        }
        Err(error) if !error.may_be_of_the_range() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    // Perhaps it was only the Range. The body is left where it is.
    headers.remove(header::RANGE);
    let response = ask(headers).await?;
    Ok(Followed { response, ..refused })
}

/// Whether the answer to the question for the first byte is one, or says that there is none for another reason.
fn tells_length(response: &Response) -> bool {
    let told = |total: fn(&HeaderValue) -> bool| response.headers().get(header::CONTENT_RANGE).is_some_and(total);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => told(|value| ContentRange::parse(value).is_ok_and(|part| part.total.is_some())),
        StatusCode::RANGE_NOT_SATISFIABLE => told(|value| ContentRange::parse_unsatisfied(value) == Some(0)),
        StatusCode::OK | StatusCode::NOT_FOUND => true,
        _ => false,
    }
}
