-- +goose Up

-- owner repeats the owner of the entry's event. A reader of an owner's events thereby finds
-- those after an index without a look at the events of other owners.
alter table log_entries add column owner uuid;
alter table log_entries disable trigger append_only;
update log_entries set owner = events.owner from events where events.position = log_entries.position;
alter table log_entries enable trigger append_only;
alter table log_entries alter column owner set not null;
create index log_entries_of_owner on log_entries (owner, idx) include (position);

-- +goose StatementBegin
create or replace function refuse_wrong_entries() returns trigger language plpgsql as $$
begin
    if exists (
        select from (select min(idx) as first, max(idx) as last, count(*) as n from added) as a
        where last - first + 1 <> n or first > 0 and not exists (select from log_entries where idx = a.first - 1)
    ) or exists (
        select from added left join events using (position)
        where events.position is null or added.hash <> sha256(events.payload) or added.owner <> events.owner
    ) then
        raise exception 'log entries must follow without a gap and have the hashes and owners of events'
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
do $$ begin
    if exists (select from events where type = 'policy.refused') then
        raise exception 'refusals are on record, which the release before this one cannot read: restore the database from a backup';
    end if;
end $$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function refuse_wrong_entries() returns trigger language plpgsql as $$
begin
    if exists (
        select from (select min(idx) as first, max(idx) as last, count(*) as n from added) as a
        where last - first + 1 <> n or first > 0 and not exists (select from log_entries where idx = a.first - 1)
    ) or exists (
        select from added left join events using (position)
        where events.position is null or added.hash <> sha256(events.payload)
    ) then
        raise exception 'log entries must follow without a gap and have the hashes of events'
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
-- +goose StatementEnd
drop index log_entries_of_owner;
alter table log_entries drop column owner;
