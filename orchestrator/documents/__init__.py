"""Documents made from the code: AsyncAPI, TypeScript types, diagrams, and one page that ties them together."""
