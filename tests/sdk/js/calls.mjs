// Every call that this version refuses (docs/methods.md).

import { Secret, Template, Volume } from 'e2b'

const alpine = () => Template().fromImage('alpine')

/** By the name of the error, without its ending. */
export const CALLS = {
  Build: {
    build: () => Template.build(alpine(), 'x'),
    buildInBackground: () => Template.buildInBackground(alpine(), 'x'),
    getBuildStatus: () => Template.getBuildStatus({ templateId: 't', buildId: 'b' }),
  },
  Template: {
    assignTags: () => Template.assignTags('base:default', 'x'),
    removeTags: () => Template.removeTags('base', 'x'),
    getTags: () => Template.getTags('base'),
  },
  Volume: {
    create: () => Volume.create('v'),
    connect: () => Volume.connect('v'),
    getInfo: () => Volume.getInfo('v'),
    list: () => Volume.list(),
    destroy: () => Volume.destroy('v'),
  },
  Secret: {
    create: () => Secret.create('s', 'v'),
    update: () => Secret.update('s', 'v'),
    getInfo: () => Secret.getInfo('s'),
    list: () => Secret.list().nextItems(),
    exists: () => Secret.exists('s'),
    destroy: () => Secret.destroy('s'),
  },
}
