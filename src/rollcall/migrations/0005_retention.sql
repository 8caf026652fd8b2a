-- Imports end some day (IMPORTS_RETENTION): what the sweep looks for, oldest first.
create index imports_finished on rollcall.imports (finished_at) where finished_at is not null;
create index uploads_completed on rollcall.uploads (completed_at) where completed_at is not null;

-- What imports have ended as, so that nobody has to look at all of them: a row for every end, undone by a row for every
-- retry and every import that is deleted (its Records stay counted). The sweep sums rows up.
create table rollcall.ends (
    state     text not null,
    code      text,
    imports   bigint not null,
    created   bigint not null,
    updated   bigint not null,
    unchanged bigint not null,
    skipped   bigint not null,
    duplicate bigint not null,
    rejected  bigint not null
);
insert into rollcall.ends
select state, error_code, count(*), sum(created), sum(updated), sum(unchanged), sum(skipped), sum(duplicate),
       sum(rejected)
  from rollcall.imports where finished_at is not null group by state, error_code;

create function rollcall.count_end() returns trigger language plpgsql as $$ begin
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
create trigger count_end after insert or delete or update of state on rollcall.imports
    for each row execute function rollcall.count_end();

-- Spans of time in which a sweep followed the other within an hour. Between two of them the clock was set, or nobody swept.
create table rollcall.sweeps (
    began timestamptz primary key,
    seen  timestamptz not null
);

-- A label has changed its name: the figure goes on under the new one.
insert into rollcall.figures as f (name, label, value)
select name, 'released', value from rollcall.figures where name = 'rollcall_takeovers' and label = 'free'
    on conflict (name, label) do update set value = f.value + excluded.value;
delete from rollcall.figures where name = 'rollcall_takeovers' and label = 'free';
