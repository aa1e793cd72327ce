//! Values of every type, and how Postgres is asked for them.

const TEXT: &str = "CAST(@ AS text)";
const SHOWN: &str = "CASE WHEN @ IS NOT NULL THEN format('%s', @) END";
const DAYS: &str = "CAST(@ - date '1970-01-01' AS text)";
const MICROS: &str = "CAST(CAST(extract(epoch FROM @) * 1000000 AS int8) AS text)";
const INTERVAL: &str = "CAST(extract(year FROM @) * 12 + extract(month FROM @) AS int) || ' ' || \
    extract(day FROM @) || ' ' || CAST((extract(hour FROM @) * 3600 + extract(minute FROM @) * 60) \
    * 1000000 + extract(microseconds FROM @) AS int8)";

/// A type, how Postgres writes what we expect of a value (`@`), and values.
pub(super) type Case = (&'static str, &'static str, &'static [&'static str]);

pub(super) const NATIVE: &[Case] = &[
    ("bool", TEXT, &["true", "false"]),
    ("int2", TEXT, &["-32768", "32767", "0"]),
    ("int4", TEXT, &["-2147483648", "2147483647"]),
    (
        "int8",
        TEXT,
        &["-9223372036854775808", "9223372036854775807"],
    ),
    ("oid", TEXT, &["0", "4294967295"]),
    (
        "float4",
        TEXT,
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1.5",
            "3.4028235e38",
            "1e-45",
            "-0",
            "0.1",
        ],
    ),
    (
        "float8",
        TEXT,
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "-0",
        ],
    ),
    (
        "numeric(10,2)",
        TEXT,
        &["12345678.90", "-0.01", "0", "99999999.99", "-10000"],
    ),
    (
        "numeric(38,0)",
        TEXT,
        &[
            "99999999999999999999999999999999999999",
            "-1",
            "10000000000000000",
        ],
    ),
    (
        "numeric(38,37)",
        TEXT,
        &[
            "9.9999999999999999999999999999999999999",
            "-0.0000000000000000000000000000000000001",
        ],
    ),
    (
        "numeric(38,38)",
        TEXT,
        &["0.5", "-0.99999999999999999999999999999999999999"],
    ),
    ("numeric(3,-2)", TEXT, &["99900", "-100", "12345"]),
    ("numeric(2,5)", TEXT, &["0.00012", "-0.00099"]),
    (
        "numeric",
        TEXT,
        &[
            "123456789012345678901234567890.123456789",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e-20",
            "0.00",
            "1e100",
            "-12345.6000",
            "0.00010001",
            "10000",
            "100000000.5",
        ],
    ),
    (
        "numeric(50,3)",
        TEXT,
        &[
            "12345678901234567890123456789012345678901234567.123",
            "-0.001",
        ],
    ),
    (
        "text",
        TEXT,
        &["", "plain", "ünï😀", "tab\tline\nquote\" \\ end"],
    ),
    ("varchar(5)", TEXT, &["abcde", ""]),
    ("char(5)", TEXT, &["ab", "", "  x"]),
    ("name", TEXT, &["a name", ""]),
    ("\"char\"", TEXT, &["x", ""]),
    (
        "date",
        DAYS,
        &[
            "0001-01-01",
            "4713-01-01 BC",
            "5874897-12-31",
            "1969-12-31",
            "2024-02-29",
        ],
    ),
    ("time", MICROS, &["00:00", "23:59:59.999999", "12:34:56"]),
    (
        "timestamp",
        MICROS,
        &[
            "1969-12-31 23:59:59.999999",
            "4713-01-01 BC",
            "2262-04-13",
            "294000-01-01",
        ],
    ),
    (
        "timestamptz",
        MICROS,
        &[
            "2024-02-29 12:00:00.000001+05:30",
            "1900-01-01 00:00-11",
            "2000-01-01Z",
        ],
    ),
    (
        "interval",
        INTERVAL,
        &[
            "1 year 2 mons -3 days 04:05:06.789",
            "0",
            "-178000000 years",
            "-00:00:00.000001",
            "1 day -25:00:00",
        ],
    ),
    (
        "uuid",
        TEXT,
        &[
            "00000000-0000-0000-0000-000000000000",
            "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        ],
    ),
    ("bytea", TEXT, &["\\x00ff10", "\\x"]),
    (
        "json",
        TEXT,
        &["{\"a\": [1, null]}", "null", "{\"a\":1,\"a\":2}"],
    ),
    ("jsonb", TEXT, &["{\"a\": [1, null]}", "\"ö\""]),
    ("mood", TEXT, &["sad", "very happy"]),
    ("positive", TEXT, &["7"]),
    (
        "inet",
        SHOWN,
        &[
            "10.0.0.1",
            "10.0.0.1/8",
            "::1",
            "::ffff:1.2.3.4",
            "::1.2.3.4",
            "2001:db8::1/64",
            "1:0:0:2:0:0:0:3",
            "fe80::",
            "::",
            "1:0:2:3:4:5:6:7",
        ],
    ),
    (
        "cidr",
        SHOWN,
        &["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32", "::/0"],
    ),
    ("bool[]", TEXT, &["{t,f,NULL}"]),
    (
        "int4[]",
        TEXT,
        &["{}", "{1,NULL,-3}", "[5:6]={7,8}", "{NULL}"],
    ),
    ("int8[]", TEXT, &["{9223372036854775807}"]),
    ("float8[]", TEXT, &["{NaN,0.5,NULL}"]),
    ("text[]", TEXT, &["{\"\",NULL,\"ö,\\\"{}\"}", "{}"]),
    ("char(3)[]", TEXT, &["{a,bcd}"]),
    ("numeric(10,2)[]", TEXT, &["{1.25,-3,NULL}"]),
    ("numeric[]", TEXT, &["{1e30,NaN,0.10}"]),
    ("date[]", DAYS, &["{2024-02-29,NULL}"]),
    ("time[]", MICROS, &["{12:00}"]),
    ("timestamp[]", MICROS, &["{2024-02-29 12:00}"]),
    ("timestamptz[]", MICROS, &["{2024-02-29 12:00+01,NULL}"]),
    ("interval[]", INTERVAL, &["{1 mon,2 days}"]),
    ("uuid[]", TEXT, &["{F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6}"]),
    ("bytea[]", TEXT, &["{\"\\\\x00ff\",NULL}"]),
    ("jsonb[]", TEXT, &["{\"{\\\"a\\\": 1}\"}"]),
    ("json[]", TEXT, &["{\"{\\\"a\\\":  1}\"}"]),
    ("inet[]", SHOWN, &["{10.0.0.1,::1}"]),
    ("mood[]", TEXT, &["{sad,NULL}"]),
    ("oid[]", TEXT, &["{4294967295}"]),
];

pub(super) const AS_TEXT: &[Case] = &[
    ("xml", TEXT, &["<a>1</a>"]),
    ("money", TEXT, &["12.50"]),
    ("timetz", TEXT, &["12:00:00+02"]),
    ("int4range", TEXT, &["[1,5)", "empty"]),
    ("point", TEXT, &["(1.5,2)"]),
    ("bit(3)", TEXT, &["101"]),
    ("varbit", TEXT, &["1", ""]),
    ("macaddr", TEXT, &["08:00:2b:01:02:03"]),
    ("tsvector", TEXT, &["a:1 b:2"]),
    ("pair", TEXT, &["(1,\"a b\")"]),
    ("xml[]", TEXT, &["{<a/>}"]),
    ("positive[]", TEXT, &["{1,2}"]),
    ("int4[]", TEXT, &["{{1,2},{3,4}}", "{1}", "{}"]),
    ("text[][]", TEXT, &["{{a,NULL}}"]),
];
