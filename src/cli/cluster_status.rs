//! `forebay status --cluster`: the members of the cluster, and what each owns.

use std::time::SystemTime;

use forebay::visible::printable;
use serde_json::Value;

use super::{
    Failure,
    columns::Columns,
    control,
    output::{print, print_json},
    running::RunningArguments,
    store_line, text,
};

/// # Errors
/// No forebay answers, it is in no cluster, or a member does not answer.
pub(super) fn run(running: &RunningArguments) -> Result<(), Failure> {
    let cluster = control::get(&running.places()?, "/api/v1/cluster?check=true")?;
    if !running.json && members(&cluster).next().is_none() {
        let why = match cluster["is_configured"] == true {
            true => "DNS has named no member of the cluster yet: the log of this forebay tells why",
            false => "this forebay has no peers; [cluster] in its configuration names them: docs/cluster.md",
        };
        return Err(Failure::Failed(anyhow::anyhow!(why)));
    }
    match running.json {
        true => print_json(&cluster)?,
        false => print(&page(&cluster, SystemTime::now()))?,
    }
    match members(&cluster).filter(|member| member["state"] != "ok").count() {
        0 => Ok(()),
        dead => Err(Failure::Failed(anyhow::anyhow!("members that do not answer: {dead}"))),
    }
}

fn members(cluster: &Value) -> impl Iterator<Item = &Value> {
    cluster["members"].as_array().into_iter().flatten()
}

/// The cluster for a person.
fn page(cluster: &Value, now: SystemTime) -> String {
    let mut table = Columns::new(["MEMBER", "STATE", "ZONE", "OWNS", "REQUESTS", "RECEIVED"]);
    for member in members(cluster) {
        let word = |key: &str| member[key].as_str().map_or_else(|| "-".to_owned(), printable);
        let is_this = member["is_this"] == true;
        let state = if is_this { "this forebay".to_owned() } else { word("state") };
        let counted = |text: String| if is_this { "-".to_owned() } else { text };
        table.row([
            word("url"),
            state,
            word("zone"),
            format!("{:.1} %", member["share"].as_f64().unwrap_or_default() * 100.0),
            counted(member["requests"].to_string()),
            counted(text::size(&member["received_bytes"])),
        ]);
    }
    let mut page = table.to_string();
    for member in members(cluster) {
        if let (Some(url), Some(why)) = (member["url"].as_str(), member["why"].as_str()) {
            page += &format!("{}: {}\n", printable(url), printable(why));
        }
    }
    if cluster["is_member"] != true {
        page += "this forebay is no member: it asks the members, and is asked by none\n";
    }
    page += &format!("{}\n", received(cluster));
    if cluster["store"].is_object() {
        page += &format!("{}\n", store_line::of(&cluster["store"], now));
    }
    page
}

/// What peers have sent, and from how far away.
fn received(cluster: &Value) -> String {
    let bytes = |member: &Value| member["received_bytes"].as_u64().unwrap_or_default();
    let all: u64 = members(cluster).map(bytes).sum();
    let is_elsewhere =
        |member: &&Value| member["is_this"] != true && !member["zone"].is_null() && member["zone"] != cluster["zone"];
    let elsewhere: u64 = members(cluster).filter(is_elsewhere).map(bytes).sum();
    let mut line = format!("peers sent {}, which no registry had to send", text::bytes(all));
    if !cluster["zone"].is_null() {
        line += &format!("; {} of it came from other zones", text::bytes(elsewhere));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_told_with_what_they_own() {
        let cluster = json!({
            "is_member": true,
            "zone": "a",
            "store": { "url": "s3://images", "state": "ok", "waiting": 2, "last_failure": null },
            "members": [
                {
                    "url": "http://n1:5000", "is_this": true, "state": "ok", "zone": "a",
                    "share": 0.512, "requests": 0, "received_bytes": 0,
                },
                {
                    "url": "http://n2:5000", "is_this": false, "state": "dead", "why": "it cannot be reached", "zone": null,
                    "share": 0.0, "requests": 7, "received_bytes": 2048,
                },
                {
                    "url": "http://n3:5000", "is_this": false, "state": "ok", "zone": "b",
                    "share": 0.488, "requests": 1, "received_bytes": 1024,
                },
            ],
        });
        let page = page(&cluster, SystemTime::UNIX_EPOCH);
        let rows: Vec<Vec<&str>> =
            page.lines().map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()).collect();
        assert_eq!(rows[1], ["http://n1:5000", "this forebay", "a", "51.2 %", "-", "-"]);
        assert_eq!(rows[2], ["http://n2:5000", "dead", "-", "0.0 %", "7", "2.0 KiB"]);
        assert_eq!(
            page.lines().skip(4).collect::<Vec<_>>(),
            [
                "http://n2:5000: it cannot be reached",
                "peers sent 3.0 KiB, which no registry had to send; 1.0 KiB of it came from other zones",
                "store  s3://images  ok  2 wait for their upload",
            ]
        );
    }
}
