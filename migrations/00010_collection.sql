-- +goose Up

-- An account has at most 100 live sessions. A further sign-in ends the oldest,
-- so ending all of them stays cheap. Sessions that have ended or expired are
-- removed a while later.
update sessions set revoked_at = clock_timestamp() where id in (
    select id from (
        select id, row_number() over (partition by account order by expires_at desc, id desc) as place
        from sessions where revoked_at is null) ranked
    where place > 100);
create index sessions_live on sessions (account, expires_at, id) where revoked_at is null;
create index sessions_oldest on sessions (expires_at);
create index sessions_ended on sessions (revoked_at) where revoked_at is not null;

-- A refresh token names its session itself, under a MAC. So the table keeps only
-- the tokens of a session that may still be exchanged, and a missing one is known
-- to have been exchanged. Tokens issued before this migration name no session:
-- their holders sign in again.
delete from refresh_tokens;
alter table refresh_tokens add column issued_at timestamptz not null;

-- The service removes the budgets of old days.
create index budgets_oldest on budgets (day);

-- +goose Down
drop index budgets_oldest;
alter table refresh_tokens drop column issued_at;
drop index sessions_ended;
drop index sessions_oldest;
drop index sessions_live;
