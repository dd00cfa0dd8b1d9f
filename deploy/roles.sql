-- Creates the role and the login with which api and worker use the database, or mends
-- them. Run it as the owner of the database, or as a superuser where the owner may not
-- create roles:
--
--     psql "$OWNER_URL" --set=ON_ERROR_STOP=1 --set=password=... --file=deploy/roles.sql
--
-- colophon_app has the rights that `colophon migrate` gives it, and cannot log in.
-- colophon_service logs in, is a member of colophon_app and owns nothing. So a stolen
-- connection of the service cannot change the log of events.

select 'create role colophon_app nologin'
where not exists (select from pg_roles where rolname = 'colophon_app') \gexec

select 'create role colophon_service login'
where not exists (select from pg_roles where rolname = 'colophon_service') \gexec

alter role colophon_service login inherit password :'password';
-- Behind a pooler the service cannot set these itself. The timeouts free the locks of a
-- process that has frozen. A commit waits until it survives a crash.
alter role colophon_service set idle_in_transaction_session_timeout = '3s';
alter role colophon_service set statement_timeout = '10s';
alter role colophon_service set synchronous_commit = 'on';
grant colophon_app to colophon_service;
