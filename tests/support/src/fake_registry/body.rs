//! Bodies that stop, crawl and break.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;

use super::fault::{Fault, Gate};

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

enum Step {
    Send(Bytes),
    Pause(Duration),
    Hold(Gate),
    Break(std::io::Error),
    Reset(std::io::Error),
}

/// What resets an HTTP/2 stream without an error: the server looks for an error of that kind among the sources.
#[derive(Debug, thiserror::Error)]
#[error("told to end early")]
struct NoError(#[source] h2::Error);

/// `content`, as far as the faults let it through. Its length is not known to the server, which
/// believes the Content-Length that is set, or chunks the body.
pub(super) fn body(content: &Bytes, faults: &[Fault]) -> Body {
    let mut stops: Vec<(usize, Step)> = faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::HoldBody { at, gate } => Some((*at, Step::Hold(gate.clone()))),
            Fault::Truncate { at } => Some((*at, Step::Break(std::io::Error::other("told to break")))),
            Fault::EndEarly { at } => {
                let error = NoError(h2::Reason::NO_ERROR.into());
                Some((*at, Step::Reset(std::io::Error::other(error))))
            }
            _ => None,
        })
        .collect();
    stops.sort_by_key(|(at, _)| *at);
    let throttle = faults.iter().find_map(|fault| match fault {
        Fault::Throttle { piece, pause } => Some((*piece, *pause)),
        _ => None,
    });
    let mut steps = VecDeque::new();
    let mut sent = 0;
    for (at, step) in stops {
        let at = at.clamp(sent, content.len());
        push(&mut steps, content.slice(sent..at), throttle);
        sent = at;
        steps.push_back(step);
    }
    push(&mut steps, content.slice(sent..), throttle);
    StreamBody::new(run(steps)).boxed_unsync()
}

fn push(steps: &mut VecDeque<Step>, content: Bytes, throttle: Option<(usize, Duration)>) {
    let (piece, pause) = throttle.unwrap_or((64 * 1024, Duration::ZERO));
    let mut rest = content;
    while !rest.is_empty() {
        steps.push_back(Step::Send(rest.split_to(piece.min(rest.len()))));
        if !pause.is_zero() {
            steps.push_back(Step::Pause(pause));
        }
    }
}

fn run(steps: VecDeque<Step>) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> {
    stream::unfold(steps, |mut steps| async move {
        loop {
            match steps.pop_front()? {
                Step::Send(piece) => return Some((Ok(Frame::data(piece)), steps)),
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::Hold(gate) => gate.pass().await,
                // What is still queued is dropped, the head too: a gate in front of it waits until that has come.
                Step::Reset(error) => return Some((Err(error), VecDeque::new())),
                Step::Break(error) => {
                    // The server flushes what it has whenever the body is not ready; a body that
                    // breaks at once would take the bytes before it along.
                    for _ in 0..16 {
                        tokio::task::yield_now().await;
                    }
                    return Some((Err(error), VecDeque::new()));
                }
            }
        }
    })
}
