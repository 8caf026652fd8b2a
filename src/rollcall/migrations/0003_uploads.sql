-- An upload may come in several requests, with pauses between them, and more than one import may be made of it.
alter table rollcall.uploads add column pausable boolean not null default false;
alter table rollcall.imports drop constraint imports_upload_id_key;
create index imports_upload on rollcall.imports (upload_id, seq);
