-- How far an import was read when it ended: `total` is known only of those that were read to the end.
alter table rollcall.imports add column bytes_read bigint;
update rollcall.imports i
   set bytes_read = case when total is not null then bytes_total
                         else (select coalesce(max(p.position), 0) from rollcall.import_parts p where p.import_id = i.id) end
 where state in ('succeeded', 'failed', 'cancelled');
