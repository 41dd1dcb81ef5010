//! View files: which items of a catalogue a scenario may recommend. docs/catalog-format.md draws the bytes.
//!
//! A view is a bit an item, tied to one catalogue by its version and header checksum: item indexes mean nothing to another.
//! Opening one checks everything, so that nothing is left to fail later.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::format::{header_crc, read_u32, read_u64};
use super::temporary::TemporaryFile;
use super::{Catalog, CatalogError, ItemIndex, bits};

/// First bytes of every view file.
const MAGIC: [u8; 8] = *b"\x89SIDVIE\n";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
const NAME_AT: usize = 56;
/// Longest name of a view.
pub const MAX_VIEW_NAME_BYTES: usize = 64;
/// The folder beside a catalogue that holds its views.
pub const VIEW_FOLDER: &str = "views";
/// The extension of view files.
const EXTENSION: &str = "view";

/// Why a view could not be built, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be put in its place.
    #[error(transparent)]
    Write(#[from] CatalogError),
    /// The file does not start with the magic bytes.
    #[error("{}: not a view: it starts with {found:02x?}; make one with `sidereal catalog view`", path.display())]
    NotAView {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most eight.
        found: Vec<u8>,
    },
    /// The file has a format version that this build does not read.
    #[error("{}: view format {found}, this build reads {FORMAT_VERSION}; build the view again", path.display())]
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
    /// The file has another length than its header says.
    #[error("{}: {needs} bytes are needed, the file has {has}; copy it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that there must be.
        needs: u64,
        /// Bytes that there are.
        has: u64,
    },
    /// The file does not match its checksum.
    #[error("{}: checksum is {computed:08x}, the file says {stored:08x}: the file is damaged, copy it again", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// In the file.
        stored: u32,
        /// Of the bytes found.
        computed: u32,
    },
    /// A field has a value that no writer produces.
    #[error("{}: field `{field}` is {value}: {rule}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Name in docs/catalog-format.md.
        field: &'static str,
        /// The value found.
        value: String,
        /// What is legal.
        rule: String,
    },
    /// The view belongs to another catalogue.
    #[error("{}: view {name:?} was built for catalogue {its:08x} ({its_items} items), this one is {ours:08x} ({our_items} items); build it again with `sidereal catalog view`", path.display())]
    OtherCatalog {
        /// The file.
        path: PathBuf,
        /// The view.
        name: String,
        /// Checksum of the catalogue it was built for.
        its: u32,
        /// Items of that.
        its_items: u64,
        /// Checksum of the catalogue at hand.
        ours: u32,
        /// Items of that.
        our_items: u64,
    },
    /// The name cannot be used.
    #[error(
        "view name {name:?}: 1 to {MAX_VIEW_NAME_BYTES} letters, digits, `.`, `_` and `-` are supported, not starting with `.`"
    )]
    Name {
        /// The name given.
        name: String,
    },
    /// Two files hold views of one name.
    #[error("view {name:?} is in both {} and {}; remove one", first.display(), second.display())]
    Duplicate {
        /// The name.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// Items of a catalogue under a name.
#[derive(Clone, PartialEq, Eq)]
pub struct View {
    name: String,
    items: Vec<u64>, // a bit an item
    count: usize,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("name", &self.name).field("items", &self.count).finish_non_exhaustive()
    }
}

impl View {
    /// The view of some items of a catalogue.
    ///
    /// # Errors
    /// The name cannot be used.
    pub fn new(name: &str, catalog: &Catalog, items: impl IntoIterator<Item = ItemIndex>) -> Result<View, ViewError> {
        if !is_name(name) {
            return Err(ViewError::Name { name: name.to_owned() });
        }
        let mut words = vec![0; bits::words(catalog.items())];
        items.into_iter().for_each(|item| bits::put(&mut words, item.0 as usize, true));
        let count = bits::count(&words, 0..catalog.items());
        Ok(View { name: name.to_owned(), items: words, count })
    }

    /// What requests call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many items it has, delisted ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether an item is in it.
    pub fn contains(&self, item: ItemIndex) -> bool {
        bits::get(&self.items, item.0 as usize)
    }

    /// A bit an item.
    pub(super) fn items(&self) -> &[u64] {
        &self.items
    }

    /// The file of a view of this name beside a catalogue in `folder`.
    pub fn path(folder: &Path, name: &str) -> PathBuf {
        folder.join(VIEW_FOLDER).join(format!("{name}.{EXTENSION}"))
    }

    /// Writes the file, whole or not at all: a temporary file beside it is renamed over it once it is on disk.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn write(&self, catalog: &Catalog, path: &Path) -> Result<(), ViewError> {
        let failed = |action| move |source| ViewError::Io { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        }
        let mut temporary = TemporaryFile::beside(path)?;
        temporary.file.write_all(&self.to_bytes(catalog)).map_err(failed("write"))?;
        temporary.file.sync_all().map_err(failed("write"))?;
        Ok(temporary.rename_to(path)?)
    }

    fn to_bytes(&self, catalog: &Catalog) -> Vec<u8> {
        let body: &[u8] = bytemuck::cast_slice(&self.items);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for count in [HEADER_BYTES + body.len(), catalog.items(), self.count] {
            bytes.extend_from_slice(&(count as u64).to_le_bytes());
        }
        bytes.extend_from_slice(&catalog.checksum().to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(self.name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(body);
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a view of `catalog` and checks all of it.
    ///
    /// # Errors
    /// [`ViewError`]: what is wrong with the file, or that it is of another catalogue.
    pub fn open(path: &Path, catalog: &Catalog) -> Result<View, ViewError> {
        let read = std::fs::read(path);
        let bytes = read.map_err(|source| ViewError::Io { action: "read", path: path.to_owned(), source })?;
        View::from_bytes(path, &bytes, catalog)
    }

    /// A view from a file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`View::open`].
    pub fn from_bytes(path: &Path, bytes: &[u8], catalog: &Catalog) -> Result<View, ViewError> {
        let path = || path.to_owned();
        let has = bytes.len() as u64;
        if bytes.get(..8) != Some(&MAGIC[..]) {
            return Err(ViewError::NotAView { path: path(), found: bytes[..bytes.len().min(8)].to_vec() });
        }
        if bytes.len() < HEADER_BYTES {
            return Err(ViewError::Length { path: path(), needs: HEADER_BYTES as u64, has });
        }
        let found = read_u32(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(ViewError::FormatVersion { path: path(), found });
        }
        let needs = read_u64(bytes, 16);
        if needs != has {
            return Err(ViewError::Length { path: path(), needs, has });
        }
        let (stored, computed) = (read_u32(bytes, 12), header_crc(bytes));
        if stored != computed {
            return Err(ViewError::Checksum { path: path(), stored, computed });
        }
        let bad = |field, value: u64, rule: String| {
            Err(ViewError::Field { path: path(), field, value: value.to_string(), rule })
        };
        let name_bytes = read_u64(bytes, 48);
        if name_bytes > MAX_VIEW_NAME_BYTES as u64 {
            return bad("name_bytes", name_bytes, format!("at most {MAX_VIEW_NAME_BYTES}"));
        }
        let name = String::from_utf8_lossy(&bytes[NAME_AT..NAME_AT + name_bytes as usize]).into_owned();
        if !is_name(&name) {
            return Err(ViewError::Name { name });
        }
        if read_u32(bytes, 44) != 0 || bytes[NAME_AT + name.len()..HEADER_BYTES].iter().any(|&byte| byte != 0) {
            return bad("reserved", 1, "must be zero".to_owned());
        }
        let (its, its_items) = (read_u32(bytes, 40), read_u64(bytes, 24));
        let (ours, our_items) = (catalog.checksum(), catalog.items() as u64);
        if (its, its_items) != (ours, our_items) {
            return Err(ViewError::OtherCatalog { path: path(), name, its, its_items, ours, our_items });
        }
        let words = bits::words(catalog.items());
        let body = &bytes[HEADER_BYTES..];
        if body.len() != words * 8 {
            return Err(ViewError::Length { path: path(), needs: (HEADER_BYTES + words * 8) as u64, has });
        }
        let items: Vec<u64> = (0..words).map(|word| read_u64(body, 8 * word)).collect();
        let count = bits::count(&items, 0..catalog.items());
        if count != bits::count(&items, 0..words * 64) {
            return bad("items in the view", 1, format!("bits from {our_items} on must be zero"));
        }
        if count as u64 != read_u64(bytes, 32) {
            return bad("members", read_u64(bytes, 32), format!("{count} bits are set"));
        }
        Ok(View { name, items, count })
    }

    /// Every view beside a catalogue in `folder`, by name; none where there is no folder for them.
    ///
    /// # Errors
    /// As [`View::open`], and where two have one name.
    pub fn open_all(folder: &Path, catalog: &Catalog) -> Result<Vec<View>, ViewError> {
        let folder = folder.join(VIEW_FOLDER);
        let failed = |source| ViewError::Io { action: "read", path: folder.clone(), source };
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found: Vec<(View, PathBuf)> = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                found.push((View::open(&path, catalog)?, path));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        if let Some(pair) = found.windows(2).find(|pair| pair[0].0.name == pair[1].0.name) {
            let (name, first, second) = (pair[0].0.name.clone(), pair[0].1.clone(), pair[1].1.clone());
            return Err(ViewError::Duplicate { name, first, second });
        }
        Ok(found.into_iter().map(|(view, _)| view).collect())
    }
}

/// A name that fits a file system, a header and a terminal.
fn is_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_VIEW_NAME_BYTES).contains(&name.len()) && name.bytes().all(legal) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{CatalogBuilder, NewItem};

    fn catalog(items: u16) -> Catalog {
        let mut builder = CatalogBuilder::new(&[16, 256]).unwrap();
        for item in 0..items {
            builder.add(NewItem { id: u64::from(item), sid: &[item % 7, item % 200], ..NewItem::default() }).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_view_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(130);
        for (name, items) in [("none", 0..0), ("one", 129..130), ("home.2", 0..130)] {
            let view = View::new(name, &catalog, items.clone().map(ItemIndex)).unwrap();
            assert_eq!((view.count(), view.contains(ItemIndex(129))), (items.len(), items.contains(&129)));
            view.write(&catalog, &View::path(folder.path(), name)).unwrap();
            assert_eq!(View::open(&View::path(folder.path(), name), &catalog).unwrap(), view);
        }
        let names: Vec<_> = View::open_all(folder.path(), &catalog).unwrap().iter().map(|v| v.name.clone()).collect();
        assert_eq!(names, ["home.2", "none", "one"]);
        let same = View::new("one", &catalog, []).unwrap();
        same.write(&catalog, &folder.path().join(VIEW_FOLDER).join("other.view")).unwrap();
        let told = View::open_all(folder.path(), &catalog).unwrap_err().to_string();
        assert!(told.contains("view \"one\" is in both"), "{told}");
        assert!(View::open_all(&folder.path().join("nowhere"), &catalog).unwrap().is_empty());
    }

    #[test]
    fn names_are_names() {
        let catalog = catalog(3);
        for name in ["", ".hidden", "a/b", "a b", "é", "x\n", &"x".repeat(65)] {
            let told = View::new(name, &catalog, []).unwrap_err().to_string();
            assert!(told.starts_with("view name"), "{told}");
        }
        assert!(View::new(&"x".repeat(64), &catalog, []).is_ok());
    }

    #[test]
    fn hostile_files_are_named() {
        let catalog = catalog(130);
        let good = View::new("home", &catalog, (0..50).map(ItemIndex)).unwrap().to_bytes(&catalog);
        let open = |bytes: &[u8]| View::from_bytes(Path::new("home.view"), bytes, &catalog);
        assert!(open(&good).is_ok());
        // With a checksum that fits, as somebody who means harm would write it.
        let signed = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            let crc = header_crc(&bytes);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        for (bytes, told) in [
            (Vec::new(), "not a view"),
            (b"\x89SIDCAT\n".to_vec(), "not a view"),
            (good[..100].to_vec(), "128 bytes are needed"),
            (good[..good.len() - 8].to_vec(), "bytes are needed"),
            ([&good[..], &[0; 8]].concat(), "bytes are needed"),
            (signed(8, &[2]), "view format 2"),
            (signed(16, &u64::MAX.to_le_bytes()), "bytes are needed"),
            (signed(24, &129u64.to_le_bytes()), "was built for catalogue"),
            (signed(40, &[1, 2, 3, 4]), "was built for catalogue 04030201"),
            (signed(32, &49u64.to_le_bytes()), "field `members` is 49: 50 bits are set"),
            (signed(44, &[1]), "must be zero"),
            (signed(48, &65u64.to_le_bytes()), "field `name_bytes` is 65"),
            (signed(48, &u64::MAX.to_le_bytes()), "field `name_bytes`"),
            (signed(48, &0u64.to_le_bytes()), "view name \"\""),
            (signed(56, b"a/b!"), "view name"),
            (signed(127, &[9]), "must be zero"),
            (signed(HEADER_BYTES + 23, &[0x80]), "bits from 130 on must be zero"),
        ] {
            let error = open(&bytes).unwrap_err().to_string();
            assert!(error.contains(told), "{error} for {told}");
        }
        let other = View::from_bytes(Path::new("home.view"), &good, &self::catalog(131)).unwrap_err();
        assert!(matches!(other, ViewError::OtherCatalog { .. }), "{other}");
    }

    proptest! {
        #[test]
        fn any_flipped_byte_is_found(at in 0usize..152, flip in 1u8..=255) {
            let catalog = catalog(130);
            let mut bytes = View::new("home", &catalog, (0..50).map(ItemIndex)).unwrap().to_bytes(&catalog);
            bytes[at] ^= flip;
            prop_assert!(View::from_bytes(Path::new("home.view"), &bytes, &catalog).is_err());
        }
    }
}
