-- +goose Up

-- An account has 100 live sessions at most: a sign-in beyond that ends the
-- oldest, so that ending all of them is a small matter. Sessions that have ended
-- or run out are removed a while later.
update sessions set revoked_at = clock_timestamp() where id in (
    select id from (
        select id, row_number() over (partition by account order by expires_at desc, id desc) as place
        from sessions where revoked_at is null) ranked
    where place > 100);
create index sessions_live on sessions (account, expires_at, id) where revoked_at is null;
create index sessions_oldest on sessions (expires_at);
create index sessions_ended on sessions (revoked_at) where revoked_at is not null;

-- A refresh token says by itself, under a MAC, to which session it belongs. So
-- of those of a session only the ones are here that may still be exchanged, and
-- one that is not here is known for one that was. Those given out before say
-- nothing: whoever has one signs in again.
delete from refresh_tokens;
alter table refresh_tokens add column issued_at timestamptz not null;

-- Days that are long over are removed.
create index budgets_oldest on budgets (day);

-- +goose Down
drop index budgets_oldest;
alter table refresh_tokens drop column issued_at;
drop index sessions_ended;
drop index sessions_oldest;
drop index sessions_live;
