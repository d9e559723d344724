//! What is pulled, over which lines, and what it costs.

pub const MB: f64 = 1e6;
pub const GB: f64 = 1e9;
/// The size of a part of an upload to the store, and of a slice of a blob.
pub const PART: f64 = 16.0 * 1024.0 * 1024.0;

/// What every node pulls.
pub struct Pull {
    pub name: &'static str,
    pub images: usize,
    /// The blobs of all images, in bytes, in the order in which a client requests them.
    pub blobs: Vec<f64>,
    /// How fast a node takes blobs in, in bytes a second: it unpacks them.
    pub node_takes: f64,
}

/// An image as most services have it.
pub fn image() -> Pull {
    let blobs = [200.0, 120.0, 60.0, 40.0, 30.0, 20.0, 15.0, 8.0, 5.0, 2.0].map(|size| size * MB).to_vec();
    Pull { name: "One image of 500 MB in 10 layers", images: 1, blobs, node_takes: 200.0 * MB }
}

/// What a new node pulls.
pub fn small_images() -> Pull {
    let layers = [30.0 * MB, 6.0 * MB, 3.0 * MB, 0.9 * MB, 0.1 * MB];
    let blobs = layers.into_iter().cycle().take(40 * layers.len()).collect();
    Pull { name: "40 images of 40 MB in 5 layers", images: 40, blobs, node_takes: 200.0 * MB }
}

/// A model, for machines with disks and lines to match, which unpack nothing.
pub fn large_blob() -> Pull {
    Pull { name: "One blob of 8 GB", images: 1, blobs: vec![8.0 * GB], node_takes: GB }
}

/// Lines in bytes a second, prices in dollars.
#[derive(Clone)]
pub struct World {
    /// What the registry sends over one connection.
    pub connection: f64,
    /// Over how many connections a forebay downloads one large blob (`upstream.connections`).
    pub connections: f64,
    /// The line of the site to the registry.
    pub site: f64,
    /// What a node can send to others.
    pub node_sends: f64,
    /// What a machine for forebay sends, and takes.
    pub forebay: f64,
    /// What one connection to the store carries, and how fast one object is uploaded.
    pub store: f64,
    pub upload: f64,
    /// How many blobs a client pulls at once.
    pub at_once: usize,
    /// How long one request to the registry takes, in seconds, and how many follow one another for an image.
    pub round_trip: f64,
    pub rounds: f64,
    /// Dollars for a byte between zones, and the part of bytes that cross where nothing avoids it: three zones.
    pub cross_zone: f64,
    pub crossing: f64,
    /// Dollars for a byte from the Internet, through a NAT gateway.
    pub nat: f64,
    /// Dollars for a request to the store.
    pub store_get: f64,
    pub store_put: f64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            connection: 25.0 * MB,
            connections: 6.0,
            site: 1.25 * GB,
            node_sends: 1.25 * GB,
            forebay: 3.0 * GB,
            store: 90.0 * MB,
            upload: 300.0 * MB,
            at_once: 3,
            round_trip: 0.05,
            rounds: 4.0,
            cross_zone: 0.02 / GB,
            crossing: 2.0 / 3.0,
            nat: 0.045 / GB,
            store_get: 0.4e-6,
            store_put: 5e-6,
        }
    }
}
