//! CSV with a header that names its columns.

use std::io::Read;

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::super::MAX_LEVELS;
use super::super::error::{Place, Unit};
use super::{CatalogError, Input, RawItem, malformed};

/// Rows between two calls of the progress callback.
const ROWS_PER_REPORT: u64 = 1 << 14;

/// Which column is what.
struct Columns {
    item: usize,
    sid: Vec<usize>,
    weight: Option<usize>,
    key: Option<usize>,
    title: Option<usize>,
}

pub(super) fn read(input: &mut Input<'_>, reader: impl Read) -> Result<(), CatalogError> {
    let mut rows = ReaderBuilder::new().from_reader(reader);
    let mut place = input.place(Unit::Line, 1);
    let header = rows.headers().map_err(|error| explain(input, &place, error))?.clone();
    let columns = Columns::find(&place, &header)?;
    let mut sid = vec![0; columns.sid.len()];
    let mut row = StringRecord::new();
    let mut count = 0u64;
    loop {
        match rows.read_record(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(explain(input, &place, error)),
        }
        place.number = row.position().map_or(0, csv::Position::line);
        let whole = |column: usize| {
            let text = row[column].trim();
            let reason = || format!("\"{}\": expected a whole number", text.escape_debug());
            text.parse::<u64>().map_err(|_| malformed(&place, Some(&header[column]), reason()))
        };
        let id = whole(columns.item)?;
        for (code, &column) in sid.iter_mut().zip(&columns.sid) {
            *code = whole(column)?;
        }
        let weight = match columns.weight.map(|column| row[column].trim()) {
            None | Some("") => None,
            Some(text) => {
                let reason = |_| format!("\"{}\": expected a number", text.escape_debug());
                Some(text.parse::<f64>().map_err(|e| malformed(&place, Some("weight"), reason(e)))?)
            }
        };
        let text = |column: Option<usize>| column.map(|column| &row[column]);
        let item = RawItem { id, sid: &sid, weight, key: text(columns.key), title: text(columns.title) };
        input.add(&place, &item)?;
        count += 1;
        if count.is_multiple_of(ROWS_PER_REPORT) {
            (input.progress)(rows.position().byte(), input.total);
        }
    }
    (input.progress)(input.total, input.total);
    Ok(())
}

impl Columns {
    fn find(place: &Place, header: &StringRecord) -> Result<Columns, CatalogError> {
        let mut sid = [None; MAX_LEVELS];
        let (mut item, mut weight, mut key, mut title) = (None, None, None, None);
        for (column, name) in header.iter().enumerate() {
            let level = name.strip_prefix("sid").and_then(|level| level.parse::<usize>().ok());
            let slot = match (name, level) {
                ("item", _) => &mut item,
                ("weight", _) => &mut weight,
                ("key", _) => &mut key,
                ("title", _) => &mut title,
                (_, Some(level)) if level < MAX_LEVELS => &mut sid[level],
                _ => {
                    let reason = "unknown column; known are item, sid0 to sid7, weight, key, title";
                    return Err(malformed(place, Some(name), reason));
                }
            };
            if slot.replace(column).is_some() {
                return Err(malformed(place, Some(name), "this column is there twice"));
            }
        }
        let levels = sid.iter().take_while(|column| column.is_some()).count();
        if let Some(level) = (levels..MAX_LEVELS).find(|&level| sid[level].is_some()) {
            let reason = format!("there, though column sid{levels} is missing");
            return Err(malformed(place, Some(&format!("sid{level}")), reason));
        }
        let missing = |name| malformed(place, Some(name), "this column is missing");
        if levels == 0 {
            return Err(missing("sid0"));
        }
        let item = item.ok_or_else(|| missing("item"))?;
        Ok(Columns { item, sid: sid.into_iter().flatten().collect(), weight, key, title })
    }
}

fn explain(input: &Input<'_>, place: &Place, error: csv::Error) -> CatalogError {
    let at = |position: &Option<csv::Position>| Place {
        number: position.as_ref().map_or(place.number, csv::Position::line),
        ..place.clone()
    };
    match error.into_kind() {
        ErrorKind::Io(source) => input.io(source),
        ErrorKind::Utf8 { pos, err } => malformed(&at(&pos), None, format!("not UTF-8: {err}")),
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            malformed(&at(&pos), None, format!("{len} columns, the header has {expected_len}"))
        }
        other => malformed(place, None, format!("not CSV: {other:?}")),
    }
}
