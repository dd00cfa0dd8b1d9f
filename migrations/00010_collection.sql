-- +goose Up

-- An account has at most 100 live sessions, so that it stays cheap to end all of them.
-- One more sign-in ends the oldest session. This statement ends the sessions beyond the
-- limit. The service later removes sessions that have ended or expired, and the indexes
-- below find these sessions.
update sessions set revoked_at = clock_timestamp() where id in (
    select id from (
        select id, row_number() over (partition by account order by expires_at desc, id desc) as place
        from sessions where revoked_at is null) ranked
    where place > 100);
create index sessions_live on sessions (account, expires_at, id) where revoked_at is null;
create index sessions_oldest on sessions (expires_at);
create index sessions_ended on sessions (revoked_at) where revoked_at is not null;

-- From this migration on, a refresh token contains the id of its session and a MAC. So
-- the table needs to keep only the tokens that may still be exchanged. A valid token
-- without a row has been exchanged earlier. Older tokens contain no session id, so all
-- of them are deleted and their holders must sign in again.
delete from refresh_tokens;
alter table refresh_tokens add column issued_at timestamptz not null;

-- This index finds the budgets of old days, which the service removes.
create index budgets_oldest on budgets (day);

-- +goose Down
drop index budgets_oldest;
alter table refresh_tokens drop column issued_at;
drop index sessions_ended;
drop index sessions_oldest;
drop index sessions_live;
