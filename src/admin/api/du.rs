//! `GET /api/v1/du`: what takes the room of the cache.

use http::Response;
use serde_json::{Value, json};

use super::{
    access::Sight,
    images::over,
    response::{ApiBody, ApiError},
    turns::Turn,
};
use crate::cache::{Inventory, inventory::DiskUsage};

/// `max_size`: how many bytes the cache may take.
pub(super) async fn usage(
    inventory: &Inventory,
    max_size: u64,
    sight: Sight,
    turn: Turn,
) -> Result<Response<ApiBody>, ApiError> {
    let usage = inventory.disk_usage(sight.of_clients).await.ok_or_else(over)?;
    turn.document(move || serde_json::to_string(&document(&usage, max_size))).await
}

fn document(usage: &DiskUsage, max_size: u64) -> Value {
    let DiskUsage { total, upstreams, several, of_clients, no_image, tags, partial, overhead, in_flight, .. } = usage;
    let by_upstream = upstreams.iter().map(|(upstream, bytes)| json!({ "upstream": **upstream, "bytes": bytes }));
    let by_repository = usage
        .repositories
        .iter()
        .map(|(upstream, repository, bytes)| json!({ "name": format!("{upstream}/{repository}"), "bytes": bytes }));
    json!({
        "total": total,
        "max_size": max_size,
        "upstreams": by_upstream.collect::<Vec<_>>(),
        "several_upstreams": several,
        "not_shown": of_clients,
        "no_image": no_image,
        "tags": tags,
        "partial": partial,
        "overhead": overhead,
        "in_flight": in_flight,
        "repositories": by_repository.collect::<Vec<_>>(),
        "reading": usage.is_reading,
    })
}
