// A real OpenID Connect provider on a free port of the loopback interface, for tests. Prints its issuer.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const seconds = { 'urn:short': 2 }; // that its tokens live, which are for `users` as well
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'users',
        client_secret: process.env.CLIENT_SECRET,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    scopes: ['read', 'write'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:users',
        getResourceServerInfo: (ctx, resource) => ({
          scope: 'read write',
          audience: resource === 'urn:short' ? 'users' : resource.slice('urn:'.length),
          accessTokenFormat: 'jwt',
          accessTokenTTL: seconds[resource] ?? 600,
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
