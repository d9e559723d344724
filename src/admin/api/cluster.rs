//! `GET /api/v1/cluster`: the forebays that this one asks before it asks registries.

use http::Response;
use serde_json::{Value, json};

use super::{
    parameters::Parameters,
    response::{ApiBody, ApiError},
    turns::Turn,
};
use crate::cluster::{Cluster, MemberReport};

/// `check=true`: asks each member first. `store`: how the object store is.
pub(super) async fn answer(
    (cluster, store): (Option<&Cluster>, Option<Value>),
    query: Option<&str>,
    turn: Turn,
) -> Result<Response<ApiBody>, ApiError> {
    let is_checked = Parameters::parse(query, &["check"])?.flag("check")?;
    if let Some(cluster) = cluster.filter(|_| is_checked) {
        cluster.check().await;
    }
    let cluster = cluster.cloned();
    // The shares of many members take a while.
    turn.document(move || serde_json::to_string(&document(cluster.as_ref(), store))).await
}

/// Without a cluster there are no members.
fn document(cluster: Option<&Cluster>, store: Option<Value>) -> Value {
    let members = cluster.map(Cluster::report).unwrap_or_default();
    json!({
        "is_configured": cluster.is_some_and(Cluster::has_peers),
        "is_member": members.iter().any(|member| member.is_this),
        "zone": cluster.and_then(Cluster::zone).map(|zone| &**zone),
        "store": store,
        "members": members.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn entry(member: &MemberReport) -> Value {
    let MemberReport { name, is_this, is_alive, why, zone, share, requests, received } = member;
    json!({
        "url": &**name,
        "is_this": is_this,
        "state": if *is_alive { "ok" } else { "dead" },
        "why": why,
        "zone": zone,
        "share": (share * 1000.0).round() / 1000.0,
        "requests": requests,
        "received_bytes": received,
    })
}
