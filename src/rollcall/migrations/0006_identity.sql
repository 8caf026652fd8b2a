-- What the store records as its owner. The row is made when this database first uses a store, not here: databases that
-- are cloned from one template must not share it.
create table rollcall.identity (
    id       uuid    not null,
    only_row boolean primary key default true check (only_row)
);
