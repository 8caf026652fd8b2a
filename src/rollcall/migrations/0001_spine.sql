-- The product: contacts (or what adoption made of a table that was there). Everything else is ours, in its own schema.
-- No foreign key, trigger or unique id is relied on at contacts, so that it can be distributed one day.
create table if not exists public.contacts (
    id          uuid primary key,
    name        text not null,
    email       text collate "C" not null,
    source      text collate "C" not null,
    attributes  jsonb not null default '{}',
    imported_at timestamptz not null,
    import_id   uuid,
    record      bigint,
    unique (source, email)
);

-- One row per worker process. Its session advisory lock (1380740204, seq) tells a dead one, its beat a frozen one.
create table rollcall.workers (
    seq  integer generated always as identity primary key,
    name text not null,
    beat timestamptz not null
);

-- What workers have counted, all of them together: Prometheus counters by name and label.
create table rollcall.figures (
    name  text not null,
    label text not null,
    value double precision not null,
    primary key (name, label)
);

create table rollcall.uploads (
    id           uuid primary key,
    state        text not null check (state in ('arriving', 'complete')),
    name         text,
    content_type text,
    length       bigint,
    created_by   text,
    request_key  text check (length(request_key) between 1 and 255),
    created_at   timestamptz not null,
    seen_at      timestamptz not null default clock_timestamp(),
    completed_at timestamptz,
    check ((state = 'complete') = (completed_at is not null and length is not null))
);
create unique index uploads_request on rollcall.uploads (created_by, request_key) nulls not distinct
    where request_key is not null;
create index uploads_arriving on rollcall.uploads (created_at) where state = 'arriving';

create table rollcall.segments (
    upload_id uuid not null references rollcall.uploads on delete cascade,
    "offset"  bigint not null,
    key       text not null unique,
    state     text not null check (state in ('pending', 'durable')),
    length    bigint,
    checksums bytea,
    primary key (upload_id, "offset"),
    check ((state = 'durable') = (length is not null and checksums is not null))
);

-- How many there are of all codes together.
create function rollcall.total(by_code jsonb) returns bigint language sql immutable as $$
    select coalesce(sum(n::bigint), 0)::bigint from jsonb_each_text(by_code) as each (code, n)
$$;

-- Its own queue: claimed, fenced and closed by single statements (see rollcall.imports).
create table rollcall.imports (
    id            uuid primary key,
    seq           bigint generated always as identity unique,
    source        text collate "C" not null check (length(source) between 1 and 100),
    upload_id     uuid not null unique references rollcall.uploads,
    bytes_total   bigint not null,
    sha256        bytea,
    state         text not null check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    options       jsonb not null,
    plan          jsonb,
    attempt       integer not null default 0,
    crashes       integer not null default 0,
    worker        integer,
    read          bigint not null default 0,
    created       bigint not null default 0,
    updated       bigint not null default 0,
    unchanged     bigint not null default 0,
    skipped       bigint not null default 0,
    duplicate     bigint not null default 0,
    rejected      bigint not null default 0,
    by_code       jsonb not null default '{}',
    total         bigint,
    error_code    text,
    error_message text,
    created_by    text,
    created_at    timestamptz not null,
    started_at    timestamptz,
    finished_at   timestamptz,
    check (read = created + updated + unchanged + skipped + duplicate + rejected),
    check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    check (state = 'running' or worker is null),
    check (error_code is not null or state <> 'failed'),
    check (error_code is null or state in ('running', 'failed')),  -- running: why it was let go the last time
    check (state <> 'succeeded' or total = read),
    check (rejected = rollcall.total(by_code))
);
create unique index imports_running on rollcall.imports (source) where state = 'running';
create index imports_queued on rollcall.imports (seq) where state = 'queued';
create index imports_open on rollcall.imports (source, seq) where state in ('queued', 'running');
create index imports_source on rollcall.imports (source, seq);
create index imports_file on rollcall.imports (source, sha256, seq);

-- The ledger: one row per Share, written in the transaction that loads it.
create table rollcall.import_parts (
    import_id uuid not null references rollcall.imports on delete cascade,
    lane      integer not null,
    first     bigint not null,
    last      bigint not null,
    attempt   integer not null,
    position  bigint not null,
    read      integer not null default 0,
    created   integer not null default 0,
    updated   integer not null default 0,
    unchanged integer not null default 0,
    skipped   integer not null default 0,
    duplicate integer not null default 0,
    rejected  integer not null default 0,
    by_code   jsonb not null default '{}',
    primary key (import_id, lane, first),
    check (last >= first),
    check (read = created + updated + unchanged + skipped + duplicate + rejected),
    check (rejected = rollcall.total(by_code))
);

-- What the ledger says of one import.
create function rollcall.account(job uuid) returns table (
    read bigint, created bigint, updated bigint, unchanged bigint, skipped bigint, duplicate bigint, rejected bigint,
    "position" bigint, by_code jsonb
) language sql stable as $$
    select coalesce(sum(p.read), 0), coalesce(sum(p.created), 0), coalesce(sum(p.updated), 0),
           coalesce(sum(p.unchanged), 0), coalesce(sum(p.skipped), 0), coalesce(sum(p.duplicate), 0),
           coalesce(sum(p.rejected), 0), coalesce(max(p.position), 0),
           (select coalesce(jsonb_object_agg(c.code, c.n), '{}')
              from (select each.code, sum(each.n::bigint) as n
                      from rollcall.import_parts r, jsonb_each_text(r.by_code) as each (code, n)
                     where r.import_id = job group by each.code) c)
      from rollcall.import_parts p where p.import_id = job
$$;

-- Of an import the first so many (MAX_STORED_REJECTS); all of them are counted, and stand in the stored file.
create table rollcall.rejects (
    import_id uuid not null references rollcall.imports on delete cascade,
    record    bigint not null,
    field     text,
    code      text not null,
    value     text,
    raw       bytea not null,
    primary key (import_id, record)
);

-- Who may ask. The secret is not here, only its digest; a revoked key stays.
create table rollcall.keys (
    id         text collate "C" primary key,
    sha256     bytea not null check (length(sha256) = 32),
    name       text not null check (length(name) between 1 and 100),
    sources    text[] check (cardinality(sources) > 0),
    created_at timestamptz not null,
    used_at    timestamptz,
    revoked_at timestamptz
);
create unique index keys_live on rollcall.keys (name) where revoked_at is null;
