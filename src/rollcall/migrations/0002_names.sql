-- The names that the code and the documentation use: a loader is one connection that loads an import, and the header of
-- a request is Idempotency-Key.
alter table rollcall.import_parts rename column lane to loader;
alter table rollcall.uploads rename column request_key to idempotency_key;
alter index rollcall.uploads_request rename to uploads_idempotency_key;
