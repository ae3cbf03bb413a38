//! Answers that are odd and legal, octet by octet.

/// An answer: its name, the question's name and type, and all behind the question.
pub(crate) struct Odd {
    pub(crate) what: &'static str,
    pub(crate) name: &'static str,
    pub(crate) kind: u16,
    /// The second and third octet of flags.
    flags: [u8; 2],
    counts: [u16; 3],
    records: Vec<u8>,
    /// How many records of the answer and authority sections the app gets of it from the far side.
    pub(crate) told: usize,
}

impl Odd {
    /// The message that answers `query`, which has one question.
    pub(crate) fn answer(&self, query: &[u8]) -> Vec<u8> {
        let end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
        let mut answer = query[..2].to_vec();
        answer.extend_from_slice(&self.flags);
        answer.extend_from_slice(&[0, 1]);
        answer.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        answer.extend_from_slice(&query[12..end]);
        answer.extend_from_slice(&self.records);
        answer
    }

    fn with(mut self, flags: [u8; 2]) -> Self {
        self.flags = flags;
        self
    }
}

const QUESTION: &[u8] = b"\xc0\x0c";
const OPT: &[u8] = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08\x01\x02\x03\x04\x05\x06\x07\x08";

/// A record of class IN.
fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&[0, 1]);
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend_from_slice(data);
    record
}

fn odd(what: &'static str, kind: u16, counts: [u16; 3], records: &[Vec<u8>], told: usize) -> Odd {
    Odd {
        what,
        name: "odd.example.",
        kind,
        flags: [0x81, 0x80],
        counts,
        records: records.concat(),
        told,
    }
}

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const NULL: u16 = 10;
const MX: u16 = 15;
const TXT: u16 = 16;
const SRV: u16 = 33;
const NAPTR: u16 = 35;
const DNAME: u16 = 39;
const RRSIG: u16 = 46;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;

/// `odd.example.` is 13 octets long and begins at 12: what follows the question begins at 29.
pub(crate) fn all() -> Vec<Odd> {
    let address = || record(QUESTION, A, 60, &[192, 0, 2, 1]);
    let text = || record(QUESTION, TXT, 60, b"\x03odd");
    let soa = b"\x02ns\xc0\x10\x04mail\xc0\x10\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x1e";
    let soa = || record(b"\xc0\x10", SOA, 900, soa);
    let label = [&[63_u8][..], &[b'x'; 63]].concat();
    let longest = [&label[..], &label, &label, &[61], &[b'y'; 61], &[0]].concat();
    let exchange = [&[0, 10][..], &longest].concat();
    let huge: Vec<u8> = [&[255_u8][..], &[b't'; 255]].concat().repeat(250);
    let small = record(QUESTION, TXT, 60, &[0]);
    let service = [
        &b"\0\x01\0"[..],
        b"\0\0\0\x04\0\x01\0\x04",
        b"\0\x01\0\x03\x02h2",
        b"\0\x02\0\0",
        b"\0\x04\0\x04\xc0\0\x02\x01",
        b"\0\x05\0\x02ec",
        b"\0\x09\0\0",
        b"\xfe\x00\0\x05other",
    ];
    let service = service.concat();
    vec![
        odd("nothing at all", TXT, [0; 3], &[], 0),
        odd(
            "an alias behind what it leads to",
            TXT,
            [2, 0, 0],
            &[
                record(b"\x05other\xc0\x10", TXT, 60, b"\x01x"),
                record(QUESTION, CNAME, 60, b"\x05other\xc0\x10"),
            ],
            2,
        ),
        odd(
            "pointers to pointers within data",
            MX,
            [2, 0, 0],
            &[
                record(QUESTION, MX, 60, b"\0\x0a\x04mail\xc0\x10"),
                record(b"\xc0\x2b", MX, 60, b"\0\x14\xc0\x2b"),
            ],
            2,
        ),
        odd(
            "EDNS between additional addresses",
            TXT,
            [1, 0, 3],
            &[text(), address(), OPT.to_vec(), address()],
            1,
        ),
        odd(
            "addresses among what was asked for",
            MX,
            [3, 1, 0],
            &[
                address(),
                record(QUESTION, MX, 60, b"\0\x0a\xc0\x0c"),
                address(),
                record(b"\x02ns\xc0\x10", A, 60, &[192, 0, 2, 53]),
            ],
            1,
        ),
        odd(
            "a TTL that is too large",
            TXT,
            [1, 0, 0],
            &[record(QUESTION, TXT, u32::MAX, b"\x01x")],
            1,
        ),
        odd(
            "a TTL of 68 years",
            TXT,
            [1, 0, 0],
            &[record(QUESTION, TXT, i32::MAX as u32, b"\x01x")],
            1,
        ),
        odd(
            "a TTL of zero",
            TXT,
            [1, 0, 0],
            &[record(QUESTION, TXT, 0, b"\x01x")],
            1,
        ),
        odd(
            "an empty text",
            TXT,
            [1, 0, 0],
            std::slice::from_ref(&small),
            1,
        ),
        odd(
            "65,000 octets in one record",
            TXT,
            [1, 0, 0],
            &[record(QUESTION, TXT, 60, &huge)],
            1,
        ),
        odd(
            "4,000 records",
            TXT,
            [4000, 0, 0],
            &vec![small.clone(); 4000],
            4000,
        ),
        odd(
            "the same record twice",
            TXT,
            [2, 0, 0],
            &[text(), text()],
            2,
        ),
        odd(
            "NULL with any data",
            NULL,
            [1, 0, 0],
            &[record(QUESTION, NULL, 60, b"\xc0\x0c\xff")],
            1,
        ),
        odd(
            "a type that nobody knows",
            65_400,
            [1, 0, 0],
            &[record(QUESTION, 65_400, 60, b"\xc0\xff\0")],
            1,
        ),
        odd(
            "a name of 255 octets",
            MX,
            [1, 0, 0],
            &[record(QUESTION, MX, 60, &exchange)],
            1,
        ),
        odd(
            "labels with dots, spaces and octets above 127",
            TXT,
            [2, 0, 0],
            &[
                record(QUESTION, CNAME, 60, b"\x06a.b c\\\x02\xff\x00\xc0\x10"),
                record(b"\x06a.b c\\\x02\xff\x00\xc0\x10", TXT, 60, b"\x01x"),
            ],
            2,
        ),
        odd(
            "a DNAME with its alias",
            TXT,
            [2, 1, 0],
            &[
                record(b"\xc0\x10", DNAME, 60, b"\x03new\0"),
                record(QUESTION, CNAME, 0, b"\x03odd\x03new\0"),
                soa(),
            ],
            3,
        ),
        odd(
            "an alias to what does not exist",
            TXT,
            [1, 1, 0],
            &[record(QUESTION, CNAME, 60, b"\x04gone\xc0\x10"), soa()],
            2,
        )
        .with([0x85, 0x83]),
        odd(
            "a referral with glue",
            TXT,
            [0, 1, 1],
            &[
                record(b"\xc0\x10", NS, 60, b"\x02ns\xc0\x10"),
                record(b"\x02ns\xc0\x10", A, 60, &[192, 0, 2, 53]),
            ],
            1,
        ),
        odd(
            "a service with keys that nobody knows",
            HTTPS,
            [1, 0, 1],
            &[record(QUESTION, HTTPS, 60, &service), address()],
            1,
        ),
        odd(
            "an alias of a service, with parameters that mean nothing",
            SVCB,
            [1, 0, 0],
            &[record(
                QUESTION,
                SVCB,
                60,
                b"\0\0\x03cdn\x07example\0\0\x03\0\x02\x01\xbb",
            )],
            1,
        ),
        odd(
            "a service that is signed",
            HTTPS,
            [2, 0, 0],
            &[
                record(QUESTION, HTTPS, 60, b"\0\x01\0"),
                record(
                    QUESTION,
                    RRSIG,
                    60,
                    b"\0\x41\x0d\x02\0\0\0\x3c\x6f\0\0\0\x6e\0\0\0\0\x01\x07example\0signature",
                ),
            ],
            1,
        ),
        odd(
            "names that should be whole and are pointers",
            SRV,
            [1, 0, 0],
            &[record(QUESTION, SRV, 60, b"\0\x01\0\x02\0\x03\xc0\x0c")],
            1,
        ),
        odd(
            "strings and a name",
            NAPTR,
            [1, 0, 0],
            &[record(
                QUESTION,
                NAPTR,
                60,
                b"\0\x01\0\x02\x01u\0\x05!a!b!\xc0\x10",
            )],
            1,
        ),
        odd("flags that mean nothing here", TXT, [1, 0, 0], &[text()], 1).with([0x85, 0xf0]),
        odd(
            "octets behind the end",
            TXT,
            [1, 0, 0],
            &[text(), b"more".to_vec()],
            1,
        ),
    ]
}
