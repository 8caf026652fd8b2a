-- The schema as pg_dump says it. Written by: WRITE_SCHEMA=1 .venv/bin/pytest tests/test_migrate.py -k schema
CREATE SCHEMA rollcall;
CREATE FUNCTION rollcall.account(job uuid) RETURNS TABLE(read bigint, created bigint, updated bigint, unchanged bigint, skipped bigint, duplicate bigint, rejected bigint, "position" bigint, by_code jsonb)
    LANGUAGE sql STABLE
    AS $$
    select coalesce(sum(p.read), 0), coalesce(sum(p.created), 0), coalesce(sum(p.updated), 0),
           coalesce(sum(p.unchanged), 0), coalesce(sum(p.skipped), 0), coalesce(sum(p.duplicate), 0),
           coalesce(sum(p.rejected), 0), coalesce(max(p.position), 0),
           (select coalesce(jsonb_object_agg(c.code, c.n), '{}')
              from (select each.code, sum(each.n::bigint) as n
                      from rollcall.import_parts r, jsonb_each_text(r.by_code) as each (code, n)
                     where r.import_id = job group by each.code) c)
      from rollcall.import_parts p where p.import_id = job
$$;
CREATE FUNCTION rollcall.count_end() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ begin
    if tg_op <> 'INSERT' and old.finished_at is not null then
        insert into rollcall.ends
        select old.state, old.error_code, -1, -n * old.created, -n * old.updated, -n * old.unchanged, -n * old.skipped,
               -n * old.duplicate, -n * old.rejected from (select case tg_op when 'DELETE' then 0 else 1 end) as each (n);
    end if;
    if tg_op <> 'DELETE' and new.finished_at is not null then
        insert into rollcall.ends values (new.state, new.error_code, 1, new.created, new.updated, new.unchanged,
                                          new.skipped, new.duplicate, new.rejected);
    end if;
    return null;
end $$;
CREATE FUNCTION rollcall.total(by_code jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    AS $$
    select coalesce(sum(n::bigint), 0)::bigint from jsonb_each_text(by_code) as each (code, n)
$$;
CREATE TABLE public.contacts (
    id uuid NOT NULL,
    name text NOT NULL,
    email text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    attributes jsonb DEFAULT '{}'::jsonb NOT NULL,
    imported_at timestamp with time zone NOT NULL,
    import_id uuid,
    record bigint
);
CREATE TABLE rollcall.ends (
    state text NOT NULL,
    code text,
    imports bigint NOT NULL,
    created bigint NOT NULL,
    updated bigint NOT NULL,
    unchanged bigint NOT NULL,
    skipped bigint NOT NULL,
    duplicate bigint NOT NULL,
    rejected bigint NOT NULL
);
CREATE TABLE rollcall.figures (
    name text NOT NULL,
    label text NOT NULL,
    value double precision NOT NULL
);
CREATE TABLE rollcall.identity (
    id uuid NOT NULL,
    only_row boolean DEFAULT true NOT NULL,
    CONSTRAINT identity_only_row_check CHECK (only_row)
);
CREATE TABLE rollcall.import_parts (
    import_id uuid NOT NULL,
    loader integer NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    attempt integer NOT NULL,
    "position" bigint NOT NULL,
    read integer DEFAULT 0 NOT NULL,
    created integer DEFAULT 0 NOT NULL,
    updated integer DEFAULT 0 NOT NULL,
    unchanged integer DEFAULT 0 NOT NULL,
    skipped integer DEFAULT 0 NOT NULL,
    duplicate integer DEFAULT 0 NOT NULL,
    rejected integer DEFAULT 0 NOT NULL,
    by_code jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT import_parts_check CHECK ((last >= first)),
    CONSTRAINT import_parts_check1 CHECK ((read = (((((created + updated) + unchanged) + skipped) + duplicate) + rejected))),
    CONSTRAINT import_parts_check2 CHECK ((rejected = rollcall.total(by_code)))
);
CREATE TABLE rollcall.imports (
    id uuid NOT NULL,
    seq bigint NOT NULL,
    source text NOT NULL COLLATE pg_catalog."C",
    upload_id uuid NOT NULL,
    bytes_total bigint NOT NULL,
    sha256 bytea,
    state text NOT NULL,
    options jsonb NOT NULL,
    plan jsonb,
    attempt integer DEFAULT 0 NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    worker integer,
    read bigint DEFAULT 0 NOT NULL,
    created bigint DEFAULT 0 NOT NULL,
    updated bigint DEFAULT 0 NOT NULL,
    unchanged bigint DEFAULT 0 NOT NULL,
    skipped bigint DEFAULT 0 NOT NULL,
    duplicate bigint DEFAULT 0 NOT NULL,
    rejected bigint DEFAULT 0 NOT NULL,
    by_code jsonb DEFAULT '{}'::jsonb NOT NULL,
    total bigint,
    error_code text,
    error_message text,
    created_by text,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    bytes_read bigint,
    CONSTRAINT imports_check CHECK ((read = (((((created + updated) + unchanged) + skipped) + duplicate) + rejected))),
    CONSTRAINT imports_check1 CHECK (((state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text])) = (finished_at IS NOT NULL))),
    CONSTRAINT imports_check2 CHECK (((state = 'running'::text) OR (worker IS NULL))),
    CONSTRAINT imports_check3 CHECK (((error_code IS NOT NULL) OR (state <> 'failed'::text))),
    CONSTRAINT imports_check4 CHECK (((error_code IS NULL) OR (state = ANY (ARRAY['running'::text, 'failed'::text])))),
    CONSTRAINT imports_check5 CHECK (((state <> 'succeeded'::text) OR (total = read))),
    CONSTRAINT imports_check6 CHECK ((rejected = rollcall.total(by_code))),
    CONSTRAINT imports_source_check CHECK (((length(source) >= 1) AND (length(source) <= 100))),
    CONSTRAINT imports_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text])))
);
ALTER TABLE rollcall.imports ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME rollcall.imports_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE rollcall.keys (
    id text NOT NULL COLLATE pg_catalog."C",
    sha256 bytea NOT NULL,
    name text NOT NULL,
    sources text[],
    created_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT keys_name_check CHECK (((length(name) >= 1) AND (length(name) <= 100))),
    CONSTRAINT keys_sha256_check CHECK ((length(sha256) = 32)),
    CONSTRAINT keys_sources_check CHECK ((cardinality(sources) > 0))
);
CREATE TABLE rollcall.migrations (
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE rollcall.rejects (
    import_id uuid NOT NULL,
    record bigint NOT NULL,
    field text,
    code text NOT NULL,
    value text,
    raw bytea NOT NULL
);
CREATE TABLE rollcall.segments (
    upload_id uuid NOT NULL,
    "offset" bigint NOT NULL,
    key text NOT NULL,
    state text NOT NULL,
    length bigint,
    checksums bytea,
    CONSTRAINT segments_check CHECK (((state = 'durable'::text) = ((length IS NOT NULL) AND (checksums IS NOT NULL)))),
    CONSTRAINT segments_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'durable'::text])))
);
CREATE TABLE rollcall.sweeps (
    began timestamp with time zone NOT NULL,
    seen timestamp with time zone NOT NULL
);
CREATE TABLE rollcall.uploads (
    id uuid NOT NULL,
    state text NOT NULL,
    name text,
    content_type text,
    length bigint,
    created_by text,
    idempotency_key text,
    created_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    completed_at timestamp with time zone,
    pausable boolean DEFAULT false NOT NULL,
    CONSTRAINT uploads_check CHECK (((state = 'complete'::text) = ((completed_at IS NOT NULL) AND (length IS NOT NULL)))),
    CONSTRAINT uploads_request_key_check CHECK (((length(idempotency_key) >= 1) AND (length(idempotency_key) <= 255))),
    CONSTRAINT uploads_state_check CHECK ((state = ANY (ARRAY['arriving'::text, 'complete'::text])))
);
CREATE TABLE rollcall.workers (
    seq integer NOT NULL,
    name text NOT NULL,
    beat timestamp with time zone NOT NULL
);
ALTER TABLE rollcall.workers ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME rollcall.workers_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.contacts
    ADD CONSTRAINT contacts_source_email_key UNIQUE (source, email);
ALTER TABLE ONLY rollcall.figures
    ADD CONSTRAINT figures_pkey PRIMARY KEY (name, label);
ALTER TABLE ONLY rollcall.identity
    ADD CONSTRAINT identity_pkey PRIMARY KEY (only_row);
ALTER TABLE ONLY rollcall.import_parts
    ADD CONSTRAINT import_parts_pkey PRIMARY KEY (import_id, loader, first);
ALTER TABLE ONLY rollcall.imports
    ADD CONSTRAINT imports_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rollcall.imports
    ADD CONSTRAINT imports_seq_key UNIQUE (seq);
ALTER TABLE ONLY rollcall.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rollcall.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (name);
ALTER TABLE ONLY rollcall.rejects
    ADD CONSTRAINT rejects_pkey PRIMARY KEY (import_id, record);
ALTER TABLE ONLY rollcall.segments
    ADD CONSTRAINT segments_key_key UNIQUE (key);
ALTER TABLE ONLY rollcall.segments
    ADD CONSTRAINT segments_pkey PRIMARY KEY (upload_id, "offset");
ALTER TABLE ONLY rollcall.sweeps
    ADD CONSTRAINT sweeps_pkey PRIMARY KEY (began);
ALTER TABLE ONLY rollcall.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY rollcall.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (seq);
CREATE INDEX imports_file ON rollcall.imports USING btree (source, sha256, seq);
CREATE INDEX imports_finished ON rollcall.imports USING btree (finished_at) WHERE (finished_at IS NOT NULL);
CREATE INDEX imports_open ON rollcall.imports USING btree (source, seq) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text]));
CREATE INDEX imports_queued ON rollcall.imports USING btree (seq) WHERE (state = 'queued'::text);
CREATE UNIQUE INDEX imports_running ON rollcall.imports USING btree (source) WHERE (state = 'running'::text);
CREATE INDEX imports_source ON rollcall.imports USING btree (source, seq);
CREATE INDEX imports_upload ON rollcall.imports USING btree (upload_id, seq);
CREATE UNIQUE INDEX keys_live ON rollcall.keys USING btree (name) WHERE (revoked_at IS NULL);
CREATE INDEX uploads_arriving ON rollcall.uploads USING btree (created_at) WHERE (state = 'arriving'::text);
CREATE INDEX uploads_completed ON rollcall.uploads USING btree (completed_at) WHERE (completed_at IS NOT NULL);
CREATE UNIQUE INDEX uploads_idempotency_key ON rollcall.uploads USING btree (created_by, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL);
CREATE TRIGGER count_end AFTER INSERT OR DELETE OR UPDATE OF state ON rollcall.imports FOR EACH ROW EXECUTE FUNCTION rollcall.count_end();
ALTER TABLE ONLY rollcall.import_parts
    ADD CONSTRAINT import_parts_import_id_fkey FOREIGN KEY (import_id) REFERENCES rollcall.imports(id) ON DELETE CASCADE;
ALTER TABLE ONLY rollcall.imports
    ADD CONSTRAINT imports_upload_id_fkey FOREIGN KEY (upload_id) REFERENCES rollcall.uploads(id);
ALTER TABLE ONLY rollcall.rejects
    ADD CONSTRAINT rejects_import_id_fkey FOREIGN KEY (import_id) REFERENCES rollcall.imports(id) ON DELETE CASCADE;
ALTER TABLE ONLY rollcall.segments
    ADD CONSTRAINT segments_upload_id_fkey FOREIGN KEY (upload_id) REFERENCES rollcall.uploads(id) ON DELETE CASCADE;
