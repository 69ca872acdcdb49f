-- The index of one snapshot: what a person may ask about a dataset without reading activations.
-- Rebuilt from the commit log and the table files whenever it is missing, old or unreadable.
-- Change this file: raise SCHEMA in index.py, so that older index files are not used any more.

CREATE TABLE index_of (     -- which snapshot this file is the index of: one row
    uuid    VARCHAR NOT NULL,
    version BIGINT  NOT NULL,
    txn     VARCHAR NOT NULL
);

CREATE TABLE commits (
    version  BIGINT NOT NULL,
    time     TIMESTAMP,     -- UTC
    run      VARCHAR,
    writer   VARCHAR,
    txn      VARCHAR NOT NULL,
    shards   BIGINT NOT NULL,
    bytes    BIGINT NOT NULL    -- of the activation files it added
);

CREATE TABLE runs (
    run  VARCHAR NOT NULL,
    info VARCHAR            -- JSON
);

CREATE TABLE sites (
    site       VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL,
    dtype      VARCHAR NOT NULL,
    shape      BIGINT[] NOT NULL,   -- of a row; -1: as wide as the row says
    row_bytes  BIGINT NOT NULL,     -- of a ragged site, of a row of width 1
    layout     VARCHAR NOT NULL,    -- 'row', 'ragged', or 'computed' from another site when read
    rows       BIGINT NOT NULL,     -- rows that have a value
    shards     BIGINT NOT NULL,
    bytes      BIGINT NOT NULL      -- of its files
);

CREATE TABLE shards (
    site      VARCHAR NOT NULL,
    path      VARCHAR NOT NULL,     -- relative to the dataset
    version   BIGINT NOT NULL,      -- of the commit that added it
    row_start BIGINT NOT NULL,      -- first row of its table that it covers
    rows      BIGINT NOT NULL,
    chunks    BIGINT NOT NULL,
    bytes     BIGINT NOT NULL
);

CREATE TABLE chunks (
    site         VARCHAR NOT NULL,
    path         VARCHAR NOT NULL,
    chunk        BIGINT NOT NULL,   -- 0-based within its shard
    row_start    BIGINT NOT NULL,   -- first row of its table that it covers
    rows         BIGINT NOT NULL,
    value_offset BIGINT NOT NULL,   -- byte of the file where its values start
    value_bytes  BIGINT NOT NULL,
    value_crc    BIGINT NOT NULL    -- CRC-32 of these bytes
);

CREATE TABLE tokens (       -- user columns are added behind these
    row      BIGINT NOT NULL,
    run      VARCHAR,
    example  BIGINT,
    position INTEGER,
    token_id BIGINT,
    token    VARCHAR
);

CREATE TABLE examples (     -- user columns are added behind these
    row     BIGINT NOT NULL,
    run     VARCHAR,
    example BIGINT,
    length  BIGINT
);

CREATE TABLE decoder_tokens (   -- tokens of the decoder of an encoder-decoder model
    row      BIGINT NOT NULL,
    run      VARCHAR,
    example  BIGINT,
    position INTEGER,
    token_id BIGINT,
    token    VARCHAR
);

-- rows of modules that a forward pass calls several times: one for each call and row

CREATE TABLE calls (
    row      BIGINT NOT NULL,
    run      VARCHAR,
    example  BIGINT,
    position INTEGER,
    call     INTEGER        -- 0-based
);

CREATE TABLE example_calls (
    row     BIGINT NOT NULL,
    run     VARCHAR,
    example BIGINT,
    call    INTEGER
);

CREATE TABLE decoder_calls (
    row      BIGINT NOT NULL,
    run      VARCHAR,
    example  BIGINT,
    position INTEGER,
    call     INTEGER
);
